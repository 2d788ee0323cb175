"""Order, windows, tails: all of them functions of the step and the settings."""

import hashlib
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from dreamtune.shards import read_meta, read_split
from dreamtune.train.documents import make_document, tail_length
from dreamtune.train.windows import (
    Share,
    TrainingWindows,
    dropout_seed,
    epoch_order,
    steps_per_epoch,
    validation_batches,
)
from tiny import END, IDS, MASK, MAX_TOKENS, make_rows, make_shards, plan, settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def windows(shards: Path, **changes: object) -> TrainingWindows:
    return TrainingWindows(read_split(shards, "train"), read_meta(shards), settings(**changes))


def test_order_is_a_permutation_of_its_own_epoch() -> None:
    first, second = epoch_order(1000, seed=0, epoch=0), epoch_order(1000, seed=0, epoch=1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).any() and (first != epoch_order(1000, seed=1, epoch=0)).any()
    assert (first == epoch_order(1000, seed=0, epoch=0)).all()
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(1000, 1, 125), (1000, 3, 375), (64, 1, 8), (1001, 1, 126)])
def test_number_of_steps(rows: int, epochs: int, steps: int) -> None:
    assert steps_per_epoch(rows, 8) * epochs == steps


def test_max_steps_and_rows(shards: Path) -> None:
    assert windows(shards).total == 12
    assert windows(shards, max_steps=5).total == 5
    assert windows(shards, max_steps=500).total == 12
    first = windows(shards, rows=10)
    assert (first.per_epoch, first.total) == (3, 6)
    assert {r.document.example_id for step in (1, 2, 3) for r in first.noised(step)} == set(range(10))


def test_every_row_once_per_epoch_and_a_short_last_window(shards: Path) -> None:
    all_windows = windows(shards, global_batch=7)
    seen = [[row.document.example_id for row in all_windows.noised(step)] for step in range(1, 5)]
    assert [len(ids) for ids in seen] == [7, 7, 7, 3]
    assert sorted(chain.from_iterable(seen)) == list(range(24))
    last = all_windows.window(4, Share(), plan(40))
    assert last.loss_tokens == sum(row.loss_tokens for row in all_windows.noised(4))
    assert all_windows.window(5, Share(), plan(40)).epoch == 1


def test_noise_depends_on_nothing_but_step_and_place(shards: Path) -> None:
    """The k-th document of the epoch: other batch sizes cut the same sequence elsewhere."""
    a, b = windows(shards, global_batch=4), windows(shards, global_batch=8)
    fours = [*a.noised(1), *a.noised(2)]
    for four, eight in zip(fours, b.noised(1), strict=True):
        assert four.noise == eight.noise and (four.input_ids == eight.input_ids).all()
    fresh = windows(shards, global_batch=4)
    assert (fresh.noised(9)[2].input_ids == a.noised(9)[2].input_ids).all()  # whatever was asked for before


def test_processes_share_a_window_exactly(shards: Path) -> None:
    all_windows = windows(shards)
    whole = all_windows.window(3, Share(), plan(40))
    parts = [
        all_windows.window(3, Share(process, 3), replace(plan(), cut_tokens=(None, 20, 30)[process]))
        for process in range(3)
    ]
    ids = [row.document.example_id for part in parts for batch in part.batches for row in batch.noised]
    assert sorted(ids) == sorted(row.document.example_id for batch in whole.batches for row in batch.noised)
    assert {(p.loss_tokens, p.nll_tokens, p.tokens) for p in parts} == {
        (whole.loss_tokens, whole.nll_tokens, whole.tokens)
    }


def test_complementary_pairs_stand_in_one_window(shards: Path) -> None:
    single, paired = windows(shards), windows(shards, complementary=True, mask_counts="random")
    rows = paired.noised(1)
    assert len(rows) == 8
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one.document.example_id == two.document.example_id
        response = np.arange(len(one.input_ids)) >= one.document.prompt_tokens
        assert (one.supervised ^ two.supervised == response).all()
    doubled = 2 * single.window(1, Share(), plan(40)).loss_tokens
    assert paired.window(1, Share(), plan(40)).loss_tokens == doubled  # so the loss keeps its scale
    assert len(windows(shards, complementary=True, objective="copy").noised(1)) == 4


TODAY = {  # digests of windows with random counts, as they were before masks and rates could be chosen
    "e86584903703875c": {},
    "a883be7a04a464cb": {"complementary": True},
    "20376440253bf07f": {"objective": "cart"},
    "727e13a8e8064a27": {"objective": "uniform", "tail_loss": "each"},
    "abdd165c7c556f68": {"objective": "copy", "complementary": True},
    "5d2e58b6afbe5b54": {"cut_share": 0.3, "long_tail": 9, "long_tail_share": 0.5, "complementary": True, "seed": 5},
}


@pytest.mark.parametrize("digest", TODAY)
def test_masks_of_every_setting_of_before_keep_each_bit(shards: Path, digest: str) -> None:
    made, found = windows(shards, mask_counts="random", **TODAY[digest]), hashlib.sha256()
    for noised in chain.from_iterable(map(made.noised, range(1, made.total + 1))):
        for array in (noised.input_ids, noised.supervised, noised.weights, noised.elbo_weights):
            found.update(array.tobytes())
        numbers = (noised.loss_tokens, noised.nll_tokens, noised.noise.rate, noised.noise.complement)
        found.update(repr(numbers).encode())
    assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize("pairs", ["complement", "mirror"])
def test_exact_pairs_keep_the_scale_of_the_loss(shards: Path, pairs: str) -> None:
    """A document that stands alone, all masked, counts as two and weighs as two: denominators never depend on it."""
    single, paired = windows(shards), windows(shards, complementary=True, mask_counts="exact", pairs=pairs)
    alone = 0
    for step in range(1, single.total + 1):
        one, two = (made.window(step, Share(), plan(40)) for made in (single, paired))
        assert (two.loss_tokens, two.nll_tokens) == (2 * one.loss_tokens, 2 * one.nll_tokens)
        rows = paired.noised(step)
        assert 4 <= len(rows) <= 8 == paired.documents
        for example in {row.document.example_id for row in rows}:
            halves = [row for row in rows if row.document.example_id == example]
            response = np.arange(len(halves[0].input_ids)) >= halves[0].document.prompt_tokens
            counts = [int(half.supervised.sum()) for half in halves]
            if len(halves) == 1:
                alone += 1
                assert (halves[0].supervised == response).all() and set(halves[0].elbo_weights) == {0.0, 2.0}
            elif pairs == "mirror":
                assert counts[0] == counts[1] < response.sum()
            else:
                assert (halves[0].supervised ^ halves[1].supervised == response).all() and min(counts) > 0
    assert 0 < alone < 24


def test_masks_of_each_epoch_are_new_and_reproducible(shards: Path) -> None:
    changes = {"mask_counts": "exact", "complementary": True, "rate_draws": "per_document", "rate_density": [1.0, 2.0]}
    first, again = windows(shards, **changes), windows(shards, **changes)
    for step in (9, 3):  # as a resumed run would ask
        for one, two in zip(first.noised(step), again.noised(step), strict=True):
            assert one.noise == two.noise and (one.input_ids == two.input_ids).all()
    rates = [{row.document.example_id: row.noise.rate for row in first.noised(step)} for step in range(1, 13)]
    early, late = ({k: v for part in rates[half : half + 6] for k, v in part.items()} for half in (0, 6))
    assert all(early[example] != late[example] for example in range(24))


def test_tail_lengths_are_even_and_redrawn_each_epoch() -> None:
    drawn = [tail_length(0, 0, example, 4) for example in range(5000)]
    assert np.bincount(drawn, minlength=5) == pytest.approx(np.full(5, 1000), abs=120)
    assert [tail_length(0, 1, example, 4) for example in range(50)] != drawn[:50]
    assert {tail_length(0, 0, example, 0) for example in range(10)} == {0}


def test_tail_is_clipped_and_never_follows_a_cut_answer() -> None:
    complete, cut = make_rows(5)[0], make_rows(5)[4]
    document = make_document(complete, 3, END, MAX_TOKENS)
    assert document.tokens.tolist() == complete["input_ids"] + [END] * 3 and document.tail_tokens == 3
    room = len(complete["input_ids"]) + 1
    assert make_document(complete, 3, END, room).tail_tokens == 1
    assert make_document(complete, 3, END, room - 1).tail_tokens == 0
    assert make_document(cut, 3, END, MAX_TOKENS).tokens.tolist() == cut["input_ids"]


def test_stored_rows_are_those_of_the_window(shards: Path) -> None:
    all_windows = windows(shards)
    for row in all_windows.noised(8):
        stored = all_windows.stored(8)[row.document.example_id]
        assert row.document.tokens[: len(stored["input_ids"])].tolist() == stored["input_ids"]


def test_dropout_seed_differs_between_batches_and_steps(shards: Path) -> None:
    window = windows(shards, complementary=True).window(1, Share(), plan(1))
    seeds = {dropout_seed(0, step, batch) for step in (1, 2) for batch in window.batches}
    assert len(seeds) == 2 * len(window.batches) and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("objective", ["elbo", "copy"])
def test_validation_is_masked_whatever_is_trained(shards: Path, objective: str) -> None:
    meta, split = read_meta(shards), read_split(shards, "validation")
    batches = list(validation_batches(split, meta, settings(objective=objective, validation_rows=5), Share(), plan(40)))
    rows = [row for batch in batches for row in batch.noised]
    assert len(rows) == 5 and all(row.document.tail_tokens == 0 for row in rows)
    assert all((row.input_ids[row.supervised] == MASK).all() and row.nll_tokens > 0 for row in rows)
    again = list(validation_batches(split, meta, settings(validation_rows=5), Share(), plan(1000)))
    ids = {row.document.example_id: row.input_ids.tolist() for row in again[0].noised}
    assert all(ids[row.document.example_id] == row.input_ids.tolist() for row in rows)


def test_ids_of_the_shards_are_used(shards: Path) -> None:
    assert windows(shards).ids == IDS
