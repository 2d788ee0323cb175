"""Adding a point, a seed or a data size makes that run's own jobs; what runs have in common is made once."""

from typing import Any

import pytest

from tests.study.conftest import Planned, by_stage

GRID = {"train.lora.rank": [4, 16], "train.learning_rate": [1e-4, 1e-3]}
STUDY: dict[str, Any] = {"grid": GRID, "seeds": 2, "data_sizes": [10, "all"]}  # 16 runs
RUN = {"evaluate_likelihood": 1, "generate_answers": 1, "score_answers": 1, "render_report": 1}


def times(count: int, trainings: int) -> dict[str, int]:
    return {stage: count * each for stage, each in RUN.items()} | {"train_adapter": trainings}


def test_runs_share_shards_the_base_and_the_smoke_of_their_data_sizes(planned: Planned) -> None:
    assert by_stage(planned(**STUDY)) == {
        "prepare_shards": 1,
        "audit_references": 1,
        "train_adapter": 16 + 8,  # a smoke run for each point and seed, whatever the data size
        "generate_answers": 16 + 1,
        "score_answers": 16 + 1,
        "evaluate_likelihood": 16,
        "render_report": 16,
    }


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"seeds": 3}, times(8, 8 + 4)),
        ({"data_sizes": [10, 20, "all"]}, times(8, 8)),
        ({"grid": GRID | {"train.lora.rank": [4, 8, 16]}}, times(8, 8 + 4)),
        ({"grid": [GRID, {"train.lora.rank": [4], "train.learning_rate": [1e-2]}]}, times(4, 4 + 2)),
        ({"grid": [GRID, {"of": ["main"], "train.epochs": [9]}]}, times(4, 4 + 2)),
        ({"grid": GRID | {"of": ["main"]}, "experiments": {"main": {}, "more": {"train": {"warmup": 0.5}}}}, None),
    ],
)
def test_what_is_added_runs_its_own_jobs_only(planned: Planned, change: dict, new: dict | None) -> None:
    before, after = planned(**STUDY), planned(**STUDY | change)
    assert before.keys() <= after.keys(), "nothing else is made again"
    assert by_stage(after.keys() - before.keys()) == (new or times(4, 4 + 2))


def test_a_run_that_is_in_two_grids_is_trained_once(planned: Planned) -> None:
    alone = planned()
    both = planned(seeds=1, data_sizes=["all"], grid={"train.epochs": [3]})
    assert by_stage(both.keys() - alone.keys()) == {"render_report": 1}  # under its own name


def test_a_baseline_or_a_larger_limit_makes_nothing_anew(planned: Planned) -> None:
    baseline = "main-rank4-lr1e-4"
    assert planned(**STUDY).keys() == planned(**STUDY, study={"baseline": baseline, "max_points": 999}).keys()


def test_runs_with_one_canvas_are_warned_of_once(planned: Planned) -> None:
    plan = planned(**STUDY, evaluate={"canvases": [32]})
    noted = {stage: spec["canvases"] for (stage, _), spec in plan.items() if "canvases" in spec}
    assert set(noted["prepare_shards"]) == {
        "main-rank4-lr1e-4-rows10, greedy",
        "main-rank4-lr1e-4-rows10, canvas-32",
    }
    assert len(noted["train_adapter"]) == 2
