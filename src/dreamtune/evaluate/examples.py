"""The examples whose likelihood is measured: a row's prompt and its response, with or without a tail of end tokens."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dreamtune.noise import open_uniforms
from dreamtune.shards import read_meta, read_split

TAIL = -2  # in the place of a draw's number, in the key of the tail's length


@dataclass(frozen=True)
class Example:
    """A row as evaluation scores it.

    Attributes:
        example_id: number of the row in the source files.
        tokens: prompt and response, up to and including the first end token of the response, then the tail.
        prompt: number of prompt tokens.
        tail: number of further end tokens after the first.
        cluster: questions of one template share it (see `formats.shards`); None if the question is like no other.
    """

    example_id: int
    tokens: tuple[int, ...]
    prompt: int
    tail: int = 0
    cluster: int | None = None

    @property
    def response(self) -> int:
        """Number of tokens that can be masked, L: the response, and its tail if it has one."""
        return len(self.tokens) - self.prompt


def read_examples(
    shards: Path, split: str, max_rows: int | None = None, spread_over: int | None = None
) -> list[Example]:
    """Return the examples of a split; [] for an empty split. Rows without a response token are left out.

    Args:
        shards: output of prepare_shards.
        split: "train", "validation" or "test".
        max_rows: read at most this many rows, the first ones; None reads all.
        spread_over: read the `max_rows` rows at even distances among the first `spread_over` rows instead.
    """
    meta = read_meta(shards)
    end_id = meta["tokenizer"]["end_id"]
    if meta["splits"][split]["rows"] == 0:
        return []
    rows = read_split(shards, split)
    among = min(spread_over or len(rows), len(rows))
    count = min(max_rows or among, among)
    chosen = np.linspace(0, among - 1, count).astype(int).tolist() if spread_over else range(count)
    examples = []
    for row in map(rows.__getitem__, chosen):
        tokens, prompt = row["input_ids"], row["prompt_tokens"]
        stop = tokens.index(end_id, prompt) + 1 if end_id in tokens[prompt:] else len(tokens)
        if stop > prompt:
            examples.append(Example(row["example_id"], tuple(tokens[:stop]), prompt, cluster=row["cluster"]))
    return examples


def with_tail(example: Example, end_id: int, max_tail: int, max_tokens: int, seed: int) -> Example:
    """Return the example with a tail as training appends it: 0 to `max_tail` end tokens, uniformly by (seed, example).

    An answer that was cut, and so lacks its end token, gets no tail; a tail ends at `max_tokens`.

    >>> example = Example(example_id=8, tokens=(5, 6, 9), prompt=1)
    >>> with_tail(example, end_id=9, max_tail=4, max_tokens=64, seed=0).tokens
    (5, 6, 9, 9, 9)
    """
    if example.tokens[-1] != end_id:
        return example
    drawn = int(open_uniforms(seed, example.example_id, TAIL).item() * (max_tail + 1))
    tail = max(0, min(drawn, max_tokens - len(example.tokens)))
    return replace(example, tokens=(*example.tokens, *(end_id,) * tail), tail=tail)
