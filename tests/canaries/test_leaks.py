"""Leaks between the documents of a micro-batch, planted in the attention and in the boundaries, each by a call."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from dreamtune.canaries import short
from dreamtune.canaries import window as canaries
from dreamtune.canaries.leaks import Watched, moved, one_of_each_shape, separating_sets, shape_of, watch
from dreamtune.objective import loss
from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.packing import Batch, collate
from planted import before
from tests.canaries.test_window import failing, window
from tiny import IDS, MASK

pytest_plugins = "planted"  # its fixtures


@pytest.fixture(autouse=True, params=[short.SHORT, 8], ids=["as they are", "cut short"])
def lengths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every leak is found in short documents, and in those that are too long for most of the passes."""
    monkeypatch.setattr(short, "SHORT", request.param)


def after(count: int) -> list[tuple[int, int]]:
    return [(n, n + 1) for n in range(count - 1)]


LEAKS: dict[str, dict[str, Any]] = {
    "each odd document sees the one before it": {"pairs": before(1)},
    "each even document sees the one before it": {"pairs": before(0)},
    "each document sees the next": {"pairs": after},
    "the first sees the last": {"pairs": lambda count: [(0, count - 1)]},
    "the last sees the first": {"pairs": lambda count: [(count - 1, 0)]},
    "the third sees the first": {"pairs": lambda count: [(2, 0)]},
    "only a document's last token sees the neighbour": {"pairs": before(1), "reads": slice(-1, None)},
    "only a document's first token sees the neighbour": {"pairs": before(1), "reads": slice(0, 1)},
    "only one token in the middle sees the neighbour": {"pairs": before(1), "reads": slice(6, 7)},
    "only the neighbour's last token is seen": {"pairs": before(1), "sees": slice(-1, None)},
    "only the neighbour's first token is seen": {"pairs": after, "sees": slice(0, 1)},
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("complementary", [False, True], ids=["one mask", "complementary masks"])
def test_a_leak_between_two_documents(
    model: PeftModel, shards: Path, leak: Callable[..., None], name: str, complementary: bool
) -> None:
    """At any distance and in both directions, of one position or of all; nothing else is blamed than what leaks."""
    batches, stored = window(shards, step=3, tokens=1000, complementary=complementary)
    leak(**LEAKS[name])
    failed = failing(canaries.check_window(model, batches, stored, IDS))
    assert "documents_apart" in failed and failed <= {"documents_apart", "targets_do_not_matter"}


@pytest.mark.parametrize("half", [0, 1], ids=["the first half reads", "the second half reads"])
def test_a_target_that_is_visible_through_its_complement(
    model: PeftModel, shards: Path, leak: Callable[..., None], half: int
) -> None:
    """Each pair shows all its targets, so both canaries fail: one sees the leak, the other what leaks."""
    batches, stored = window(shards, tokens=1000, complementary=True)
    twins = [noised.document.example_id for noised in batches[0].noised]
    assert twins[::2] == twins[1::2]
    leak(lambda count: [(n + half, n + 1 - half) for n in range(0, count, 2)])
    checks = canaries.check_window(model, batches, stored, IDS)
    assert failing(checks) == {"targets_do_not_matter", "documents_apart"}


def test_a_neighbour_shows_no_target_where_masks_are_not_complementary(
    model: PeftModel, shards: Path, leak: Callable[..., None]
) -> None:
    batches, stored = window(shards, tokens=1000)
    leak(before(1))
    assert failing(canaries.check_window(model, batches, stored, IDS)) == {"documents_apart"}


@pytest.mark.parametrize("step", [-1, 1], ids=["early", "late"])
@pytest.mark.parametrize("documents", [2, 3, 4])
def test_boundaries_one_token_off(model: PeftModel, shards: Path, step: int, documents: int) -> None:
    batches, _ = window(shards, tokens=1000)
    batch = collate(batches[0].noised[:documents])
    assert canaries.documents_apart(model, [batch], IDS)["passed"]
    moved_inside = batch.boundaries.clone()
    moved_inside[1:-1] += step
    check = canaries.documents_apart(model, [replace(batch, boundaries=moved_inside)], IDS)
    assert check["passed"] is False and check["value"] > 0
    assert check["fault"] == canaries.FAULTS["documents_apart"]


def test_padding_that_is_seen(model: PeftModel, shards: Path) -> None:
    """As on a GPU, where a row is padded; also where one document stands alone with its padding."""
    batches, _ = window(shards, tokens=1000)
    for documents in (1, 2):
        batch = collate(batches[0].noised[:documents], multiple=64)
        assert len(batch.input_ids) % 64 == 0 and shape_of(batch)[2]
        assert canaries.documents_apart(model, [batch], IDS)["passed"]
        last = batch.boundaries.clone()
        last[-2] += 1  # the last document takes in a token of the padding
        assert not canaries.documents_apart(model, [replace(batch, boundaries=last)], IDS)["passed"]


def test_a_leak_in_some_micro_batches_only(model: PeftModel, shards: Path, leak: Callable[..., None]) -> None:
    """The window at hand has micro-batches of three and more; those of two, elsewhere in the epoch, leak."""
    batches, stored = window(shards, tokens=1000)
    two = collate(batches[0].noised[:2])
    equal = collate([replace_document(number, 9) for number in range(3)])
    single = collate(batches[0].noised[:1])
    leak(lambda count: [(1, 0)] if count == 2 else [])
    others = one_of_each_shape(iter([batches, [two, single], [two, equal]]), batches)
    assert others == [two, equal]
    assert failing(canaries.check_window(model, batches, stored, IDS)) == set()
    assert failing(canaries.check_window(model, batches, stored, IDS, others)) == {"documents_apart"}


def replace_document(example: int, length: int) -> Any:
    return corrupt(Document(example, np.arange(length), 3, 0), Noise("elbo", 0.5, 0, 0, MASK))


def test_a_leak_behind_the_model(model: PeftModel, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that are watched are those that the loss reads: here something of the targets is mixed into them."""
    original = loss.supervised_rows
    monkeypatch.setattr(
        "dreamtune.canaries.leaks.supervised_rows",
        lambda m, batch: original(m, batch) + 1e-3 * m.get_input_embeddings()(batch.targets).mean(),
    )
    batches, stored = window(shards, tokens=1000)
    assert failing(canaries.check_window(model, batches, stored, IDS)) == {"targets_do_not_matter"}


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 16, 49])
def test_every_document_is_watched_while_any_other_is_replaced(number: int) -> None:
    sets = [set(chosen) for chosen in separating_sets(number)]
    for watched, replaced in permutations(range(number), 2):
        assert any(replaced in chosen and watched not in chosen for chosen in sets)
    assert len(sets) <= 8


def test_what_the_canaries_cost(model: PeftModel, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward passes of a micro-batch."""
    passes = 0
    original = loss.hidden_rows

    def counted(m: Any, batch: Batch) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return original(m, batch)

    monkeypatch.setattr(loss, "hidden_rows", counted)
    cost = {}
    for documents, complementary in ((1, False), (2, False), (4, False), (8, True)):
        batches, stored = window(shards, tokens=1000, complementary=complementary)
        passes = 0
        canaries.check_window(model, [collate(batches[0].noised[:documents])], stored, IDS)
        cost[documents] = passes
    # Of long documents: two passes on every second document, and one more to watch them short.
    more = {1: 1, 2: 3, 4: 3, 8: 3} if short.SHORT == 8 else dict.fromkeys(cost, 0)
    assert cost == {documents: passes + more[documents] for documents, passes in {1: 3, 2: 5, 4: 7, 8: 9}.items()}


def test_one_bit_is_enough(shards: Path, model: PeftModel) -> None:
    batches, _ = window(shards)
    watched: Watched = watch(model, batches[0])
    rows = watched.rows.clone()
    rows[0, 0] = torch.nextafter(rows[0, 0], torch.tensor(9.0))
    documents = np.ones(len(batches[0].noised), bool)
    assert moved(watched, watched.rows, documents).moved == 0
    assert moved(watched, rows, documents).moved == 1
