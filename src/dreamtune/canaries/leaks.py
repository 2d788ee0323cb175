"""Canaries for leaks: does a prediction depend on its own target, or on another document of its micro-batch?

Each runs a micro-batch as it is, and again with something replaced on which no prediction may depend. The hidden rows
of *every* response position, read by the loss's own function, must keep every bit: equal inputs of equal shape give
equal bits, also on a GPU, since no kernel of the forward pass adds up with atomics.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count, islice
from math import comb

import numpy as np
import torch
from torch import Tensor, nn

from dreamtune.objective.diffusion import Noised, corrupt
from dreamtune.objective.loss import supervised_rows
from dreamtune.objective.packing import Batch, collate

SHAPED_WINDOWS = 64  # windows in which `one_of_each_shape` looks


@dataclass(frozen=True)
class Watched:
    """The hidden rows that score the response of each document of a micro-batch, as the micro-batch is."""

    positions: Tensor  # [W] int64, every response position, and every other one that is supervised
    documents: np.ndarray  # [W], the document of each, counted from 0
    rows: Tensor  # [W, D]


@dataclass(frozen=True)
class Count:
    """How many of the scores that were looked at moved, though they may not."""

    moved: int = 0
    tested: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.moved + other.moved, self.tested + other.tested)


def watch(model: nn.Module, batch: Batch) -> Watched:
    """Run a micro-batch as it is, and return the hidden rows of all response positions. One forward pass."""
    places = [start + _watched_places(noised) for start, noised in zip(batch.starts, batch.noised, strict=True)]
    documents = np.repeat(np.arange(len(places)), [len(mine) for mine in places])
    positions = torch.from_numpy(np.concatenate(places)).to(batch.positions.device)
    return Watched(positions, documents, rows_at(model, batch, positions))


def rows_at(model: nn.Module, batch: Batch, positions: Tensor) -> Tensor:
    """Return the hidden rows [W, D] from which the loss would predict the tokens at `positions` [W]."""
    return supervised_rows(model, replace(batch, positions=positions))


def target_leaks(model: nn.Module, batch: Batch, watched: Watched, ids: dict[str, int]) -> Count:
    """Count the scores that move with the targets of their own document.

    All supervised tokens of a document are replaced *before* corruption, in each document of the micro-batch that is
    made of the same row: the other half of a complementary pair shows in its input what this half has to predict. One
    forward pass; two where both halves of a pair stand in the micro-batch, each half being watched in turn.
    """
    examples = [noised.document.example_id for noised in batch.noised]
    halves = np.array([examples[:number].count(example) for number, example in enumerate(examples)])  # 0, or 1
    found = Count()
    for half in range(int(halves.max()) + 1):
        altered = {
            noised.document.example_id: np.where(
                noised.supervised, other_tokens(noised.document.tokens, ids), noised.document.tokens
            )
            for noised, mine in zip(batch.noised, halves == half, strict=True)
            if mine
        }
        documents = [_with_tokens(noised, altered.get(noised.document.example_id)) for noised in batch.noised]
        rows = rows_at(model, collate(documents, batch.input_ids.device), watched.positions)
        found += moved(watched, rows, halves == half)
    return found


def neighbour_leaks(
    model: nn.Module, batch: Batch, watched: Watched, ids: dict[str, int], thorough: bool = True
) -> Count:
    """Count the scores that move with another document of their micro-batch, or with its padding.

    In each forward pass some documents are replaced as a whole, and the others are watched. `separating_sets` chooses
    them so that each document is watched while any other is replaced, in few passes: 2 for two documents, 5 for eight.

    Args:
        model, batch, watched, ids: as for the other canaries.
        thorough: False takes two passes, in which every second document is replaced.
    """
    number, end = len(batch.noised), batch.starts[-1] + len(batch.noised[-1].input_ids)
    padded = end < len(batch.input_ids)
    replaced = batch.input_ids.new_tensor(other_tokens(batch.input_ids.cpu().numpy(), ids))
    found = Count()
    every_second = [list(range(first, number, 2)) for first in range(2)] if number > 1 else []
    for chosen in (separating_sets(number) if thorough else every_second) or ([[]] if padded else []):
        altered = batch.input_ids.clone()
        altered[end:] = replaced[end:]
        for document in chosen:
            span = slice(batch.starts[document], batch.starts[document] + len(batch.noised[document].input_ids))
            altered[span] = replaced[span]
        rows = rows_at(model, replace(batch, input_ids=altered), watched.positions)
        found += moved(watched, rows, ~np.isin(np.arange(number), chosen))
    return found


def separating_sets(number: int) -> list[list[int]]:
    """Return few sets of range(number) such that for any two members some set holds the first and not the second.

    Member n is put into the sets that its code names: the n-th choice of half of all sets. No code contains another,
    since all are equally long and different, and no family of such codes is larger (Sperner 1928). One member needs
    no set. Four sets do for up to six members, six for up to twenty:

    >>> separating_sets(2), separating_sets(4)
    ([[0], [1]], [[0, 1, 2], [0, 3], [1, 3], [2]])
    >>> [len(separating_sets(number)) for number in (1, 3, 6, 10, 20, 70)]
    [0, 3, 4, 5, 6, 8]
    """
    if number < 2:
        return []
    sets = next(sets for sets in count(2) if comb(sets, sets // 2) >= number)
    codes = list(islice(combinations(range(sets), sets // 2), number))
    return [[member for member, code in enumerate(codes) if one in code] for one in range(sets)]


def moved(watched: Watched, rows: Tensor, documents: np.ndarray) -> Count:
    """Count the watched rows of the chosen `documents` [documents, bool] of which a bit differs from `rows` [W, D]."""
    chosen = torch.from_numpy(documents[watched.documents]).to(rows.device)  # [W]
    differ = (watched.rows != rows).any(dim=-1) & chosen
    return Count(int(differ.sum()), int(chosen.sum()))


def one_of_each_shape(windows: Iterable[Sequence[Batch]], known: Sequence[Batch]) -> list[Batch]:
    """Return a micro-batch of each shape that `known` lacks, since attention takes another way for some shapes.

    A shape is: two documents or more, equally long or not, with or without padding. A single document cannot leak.
    """
    seen, found = {shape_of(batch) for batch in known}, []
    for batch in (batch for batches in islice(windows, SHAPED_WINDOWS) for batch in batches):
        if len(batch.noised) > 1 and shape_of(batch) not in seen:
            seen.add(shape_of(batch))
            found.append(batch)
    return found


def shape_of(batch: Batch) -> tuple[int, bool, bool]:
    """Return (documents, at most 3; whether they are equally long; whether padding follows)."""
    lengths = [len(noised.input_ids) for noised in batch.noised]
    return min(len(lengths), 3), len(set(lengths)) == 1, sum(lengths) < len(batch.input_ids)


def other_tokens(tokens: np.ndarray, ids: dict[str, int]) -> np.ndarray:
    """Return for each token another one that is not special, the next by its number: [...] int64.

    Args:
        tokens: [...].
        ids: special tokens and vocabulary size, as in shards.json.

    >>> other_tokens(np.array([3, 4, 9]), {"mask_id": 5, "end_id": 6, "vocab_size": 10}).tolist()
    [4, 7, 0]
    """
    special = [number for name, number in ids.items() if name != "vocab_size" and number is not None]
    others = (tokens + 1) % ids["vocab_size"]
    while (wrong := np.isin(others, special)).any():
        others = np.where(wrong, (others + 1) % ids["vocab_size"], others)
    return others


def _watched_places(noised: Noised) -> np.ndarray:
    """Return the positions of a document that are watched: its response, and what is supervised besides."""
    response = np.arange(len(noised.input_ids)) >= max(noised.document.prompt_tokens, 1)
    return np.flatnonzero(response | noised.supervised)


def _with_tokens(noised: Noised, tokens: np.ndarray | None) -> Noised:
    """Return the document corrupted in the same way with other tokens; None leaves it as it is."""
    return noised if tokens is None else corrupt(replace(noised.document, tokens=tokens), noised.noise)
