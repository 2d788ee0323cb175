"""From rows to documents: the tail behind an answer, and rows of which only the beginning is shown.

Both decide which canvases training shows: docs/canvas.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dreamtune.errors import UserError
from dreamtune.noise import counter_hash, uniforms
from dreamtune.objective.diffusion import Document, Draw


def tail_length(
    seed: int, epoch: int, example_id: int, max_tail: int, long_tail: int = 0, long_share: float = 0.0
) -> int:
    """Return the number of tokens behind the end token: uniform over 0 to `max_tail`, or to `long_tail` in a share.

    Lengths vary so that the model learns to stop, but not how long generation's canvas is.

    >>> [tail_length(seed=0, epoch=0, example_id=example, max_tail=4) for example in range(6)]
    [1, 1, 3, 0, 3, 1]
    >>> [tail_length(0, 0, example, max_tail=4, long_tail=90, long_share=0.5) for example in range(6)]
    [1, 1, 59, 0, 88, 36]
    """
    key = (Draw.TAIL, seed, epoch, example_id)
    most = long_tail if long_tail and uniforms(key, np.ones(1))[0] < long_share else max_tail
    return int(counter_hash(key, np.zeros(1))[0] % np.uint64(most + 1))


def cut_length(seed: int, epoch: int, example_id: int, response_tokens: int, share: float) -> int | None:
    """Return how many tokens of a response are shown: uniform over 1 to all but one, in a share; else None for all.

    >>> [cut_length(seed=0, epoch=0, example_id=example, response_tokens=9, share=0.5) for example in range(6)]
    [None, 1, None, None, None, 3]
    """
    key = (Draw.CUT, seed, epoch, example_id)
    if share == 0 or response_tokens < 2 or uniforms(key, np.ones(1))[0] >= share:
        return None
    return 1 + int(counter_hash(key, np.zeros(1))[0] % np.uint64(response_tokens - 1))


def make_document(row: dict[str, Any], tail_tokens: int, end_id: int, max_tokens: int) -> Document:
    """Return a row of the shards as a document, with a tail of end tokens.

    A row whose answer was cut (not `complete`) gets no tail: the model must not learn to stop at the cut.

    Args:
        row: of the shards, see `formats.shards.SHARD`.
        tail_tokens: length of the tail; shorter where the document would exceed `max_tokens`.
        end_id: the end token.
        max_tokens: of a document.
    """
    tail = min(tail_tokens, max_tokens - len(row["input_ids"])) if row["complete"] else 0
    tokens = np.asarray(row["input_ids"], np.int64)
    return Document(
        example_id=int(row["example_id"]),
        tokens=np.concatenate([tokens, np.full(max(tail, 0), end_id, np.int64)]),
        prompt_tokens=int(row["prompt_tokens"]),
        tail_tokens=max(tail, 0),
    )


def make_beginning(row: dict[str, Any], response_tokens: int) -> Document:
    """Return the prompt and the first `response_tokens` tokens of a row's response as a document, without a tail.

    Args:
        row: of the shards, see `formats.shards.SHARD`.
        response_tokens: at least one, and fewer than the response has.
    """
    prompt = int(row["prompt_tokens"])
    tokens = np.asarray(row["input_ids"][: prompt + response_tokens], np.int64)
    return Document(int(row["example_id"]), tokens, prompt, tail_tokens=0, cut=True)


def with_padding(document: Document, padding: Sequence[int]) -> Document:
    """Return a document whose tail holds the `padding` tokens in turn; as it is if there are none.

    >>> document = Document(example_id=0, tokens=np.array([5, 6, 2, 2, 2, 2]), prompt_tokens=1, tail_tokens=3)
    >>> with_padding(document, [7, 8]).tokens.tolist()
    [5, 6, 2, 7, 8, 7]
    """
    if not padding:
        return document
    whole = document.tokens[: len(document.tokens) - document.tail_tokens]
    tail = np.resize(np.array(padding, np.int64), document.tail_tokens)
    return replace(document, tokens=np.concatenate([whole, tail]))


def check_padding(padding: Sequence[int], ids: dict[str, int], vocabulary: int) -> None:
    """Raise a UserError if `train.padding_tokens` cannot fill a tail.

    Args:
        padding: token ids.
        ids: special tokens, as in shards.json.
        vocabulary: number of the model's embeddings.
    """
    names = {ids[name]: name for name in ("beginning_id", "end_id", "mask_id")}
    for token in padding:
        if token in names or not 0 <= token < vocabulary:
            why = f"that is the {names[token]}" if token in names else f"the model has {vocabulary} tokens"
            raise UserError(
                f"train.padding_tokens holds {token}: {why}; name ids that no text uses, or leave the list empty"
            )
