"""Packing: documents behind each other, found again, and shared out among micro-batches."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from documents import document, noise
from dreamtune.objective.diffusion import Noised, corrupt
from dreamtune.objective.packing import collate, split_window


def rows(*responses: int) -> list[Noised]:
    return [corrupt(document(e, 3, response, 1), noise(rate=0.6)) for e, response in enumerate(responses)]


def test_collate_puts_documents_behind_each_other() -> None:
    short, long = rows(4, 10)
    batch = collate([short, long])
    assert batch.input_ids.tolist() == [*short.input_ids, *long.input_ids]
    assert batch.position_ids.tolist() == [*range(8), *range(14)]
    assert batch.boundaries.tolist() == [0, 8, 22] and batch.boundaries.dtype == torch.int32
    assert (batch.starts, batch.longest) == ((0, 8), 14)
    assert batch.targets.tolist() == [*short.document.tokens[short.supervised], *long.document.tokens[long.supervised]]
    assert batch.weights.tolist() == [*short.weights[short.supervised], *long.weights[long.supervised]]


def test_every_supervised_token_is_found_again() -> None:
    window = rows(4, 0, 10, 7)
    batch = collate(window)
    number, column = batch.places()
    found = [np.flatnonzero(row.supervised).tolist() for row in window]
    assert [column[number == i].tolist() for i in range(len(window))] == found


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_micro_batches_hold_every_document_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    window = rows(*lengths)
    micro_batches = split_window(window, budget)
    assert sorted(row.document.example_id for part in micro_batches for row in part) == list(range(len(lengths)))
    sizes = [sum(len(row.input_ids) for row in part) for part in micro_batches]
    assert all(size <= budget or len(part) == 1 for size, part in zip(sizes, micro_batches, strict=True))
    total = sum(len(row.input_ids) for row in window)
    if total <= budget:
        assert len(micro_batches) == 1
    # Two micro-batches that fit into one together would be one too many, but for what the greedy rule cannot see.
    assert len(micro_batches) <= max(1, 2 * -(-total // budget), sum(len(row.input_ids) > budget for row in window) * 2)


def test_micro_batches_are_of_similar_size() -> None:
    sizes = [sum(len(row.input_ids) for row in part) for part in split_window(rows(*range(5, 69)), 700)]
    assert max(sizes) - min(sizes) < 70


def test_no_rows_make_no_micro_batch() -> None:
    assert split_window([], 10) == []


def test_padding_is_one_more_document() -> None:
    window = rows(4, 10)
    plain, filled = collate(window), collate(window, multiple=16)
    assert filled.boundaries.tolist() == [0, 8, 22, 32] and len(filled.input_ids) == len(filled.position_ids) == 32
    assert filled.starts == plain.starts and filled.positions.tolist() == plain.positions.tolist()
    assert [numbers.tolist() for numbers in filled.places()] == [numbers.tolist() for numbers in plain.places()]
    assert collate(window, multiple=11).boundaries.tolist() == [0, 8, 22]
