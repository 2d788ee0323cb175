"""The examples whose likelihood is measured: a row's prompt and its response, with or without a tail of end tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamtune.shards import limited, read_meta, read_split


@dataclass(frozen=True)
class Example:
    """A row as evaluation scores it.

    Attributes:
        example_id: number of the row in the source files.
        tokens: prompt and response, up to and including the first end token of the response, then the tail.
        prompt: number of prompt tokens.
        tail: number of tokens behind the end token.
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
        max_rows: read at most this many rows, as `shards.limited` chooses them; None reads all.
        spread_over: read the `max_rows` rows at even distances among `spread_over` rows that it chooses instead.
    """
    meta = read_meta(shards)
    end_id = meta["tokenizer"]["end_id"]
    if meta["splits"][split]["rows"] == 0:
        return []
    rows = read_split(shards, split)
    among = min(spread_over or len(rows), len(rows))
    count = min(max_rows or among, among)
    chosen = limited(meta, len(rows), among if spread_over else count).tolist()
    if spread_over:
        chosen = [chosen[place] for place in np.linspace(0, among - 1, count).astype(int).tolist()]
    examples = []
    for row in map(rows.__getitem__, chosen):
        tokens, prompt = row["input_ids"], row["prompt_tokens"]
        stop = tokens.index(end_id, prompt) + 1 if end_id in tokens[prompt:] else len(tokens)
        if stop > prompt:
            examples.append(Example(row["example_id"], tuple(tokens[:stop]), prompt, cluster=row["cluster"]))
    return examples
