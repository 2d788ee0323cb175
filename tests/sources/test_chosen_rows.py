"""The rows that a run on fewer rows takes: nested draws; and its steps, by equal steps or equal epochs."""

from pathlib import Path

import numpy as np
import pytest

import tiny
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.prediction import training_tokens
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.sources.chosen_rows import drawn
from dreamtune.train.windows import TrainingWindows


def test_smaller_draws_lie_inside_larger_ones_whatever_the_order_of_the_rows() -> None:
    ids = np.random.default_rng(0).permutation(1000) * 7
    draws = {count: set(ids[drawn(ids, count, 3)].tolist()) for count in (1, 10, 250, 999, 1000)}
    for smaller, larger in zip([1, 10, 250, 999], [10, 250, 999, 1000], strict=True):
        assert len(draws[smaller]) == smaller and draws[smaller] < draws[larger]
    ordered = np.sort(ids)
    assert set(ordered[drawn(ordered, 250, 3)].tolist()) == draws[250]
    assert len(set(ids[drawn(ids, 250, 4)].tolist()) & draws[250]) < 100  # 62.5 are expected
    assert np.all(np.diff(drawn(ids, 250, 3)) > 0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_shards(tmp_path_factory.mktemp("shards") / "out", train=24)


def windows(shards: Path, **changes: object) -> TrainingWindows:
    return TrainingWindows(read_split(shards, "train"), read_meta(shards), tiny.settings(epochs=3, **changes))


def test_sizes_at_equal_steps_and_at_equal_epochs(shards: Path) -> None:
    sizes = {"data_sizes": {"rows": [6, 12, "all"], "equal": "steps"}}
    base = {"model": {"path": "x"}, "data": {"files": ["x"]}, "train": {"global_batch": 4, "epochs": 3}}
    found = {}
    for equal in ("steps", "epochs"):
        sizes["data_sizes"]["equal"] = equal
        runs = [run.train for run in parse_config(base | sizes).experiments.values()]
        made = [TrainingWindows(read_split(shards, "train"), read_meta(shards), train) for train in runs]
        found[equal] = [(m.rows, m.total, m.epochs, m.per_counted_epoch) for m in made]
        assert set(made[0].used) < set(made[1].used) < set(made[2].used)
        documents = [sum(len(m.noised(step)) for step in range(1, m.total + 1)) for m in made]
        predicted = [training_tokens(m.train.model_copy(update={"max_tail": 0}), 24, 1.0) for m in made]
        assert documents == predicted
    assert found["steps"] == [(6, 18, 9, 6), (12, 18, 6, 6), (24, 18, 3, 6)]
    assert found["epochs"] == [(6, 6, 3, 2), (12, 9, 3, 3), (24, 18, 3, 6)]


def test_rows_in_their_order_are_what_they_were(shards: Path) -> None:
    assert windows(shards, rows=6).used.tolist() == [0, 1, 2, 3, 4, 5]
    assert windows(shards).used.tolist() == list(range(24))


def test_the_draw_depends_on_its_own_seed_alone(shards: Path) -> None:
    first, other, redrawn = (
        windows(shards, rows=6, rows_by="draw", **seeds).used.tolist() for seeds in ({}, {"seed": 1}, {"rows_seed": 1})
    )
    assert first == other != redrawn


def test_more_rows_than_there_are_cannot_be_drawn(shards: Path) -> None:
    assert windows(shards, rows=99).rows == 24
    with pytest.raises(UserError, match=r"train.rows is 99, and the training split has 24 rows to draw from"):
        windows(shards, rows=99, rows_by="draw")


def test_max_steps_ends_a_run_of_either_kind() -> None:
    assert TrainConfig(rows=8, epochs=3, max_steps=5, epochs_of="all").total_steps(80) == 5
    assert TrainConfig(rows=8, epochs=3, max_steps=5).total_steps(80) == 3
