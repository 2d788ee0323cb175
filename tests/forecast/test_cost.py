"""How many jobs and GPU minutes a run will take, from what is finished."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.config import parse_config
from dreamtune.files import write_json
from dreamtune.forecast.cost import cost_of, runs_in_words, too_many_runs
from dreamtune.study.expand import TooManyRuns
from dreamtune.workflow.plan import RESULTS, Plan
from tests.study.conftest import LEAST, Planned, planned  # noqa: F401, a fixture
from versions import finish

SMOKE = {
    **{"tokens": 1_000, "steps": 8, "seconds_per_token": 0.6, "fit_s": 700.0, "validation_s": 40.0},
    **{"validation": [{}, {}], "processes": 1, "ran_as": {"micro_batch_tokens": 32}},
}
SHARDS = {"splits": {"train": {"rows": 80, "tokens": 3_600}}}
STUDY: dict[str, Any] = {"grid": {"train.lora.rank": [4, 16]}, "train": {"max_tail": 10, "epochs": 2}}
FULL_S = 60 + 2 * 80 * (45 + 5) * 0.6 + 4 * 20  # as in tests/workflow/test_demand.py: the start, tokens, validations


def done(plan: Plan, which: Any, wall_s: float = 760.0) -> None:
    """Finish the versions for which `which(stage, spec)` holds."""
    plan.freeze()
    for (stage, version), spec in plan.items():
        if which(stage, spec):
            folder = RESULTS / stage / version
            write_json(folder / "training.json", SMOKE)
            write_json(folder / "shards.json", SHARDS)
            finish(folder, spec, wall_s=wall_s)


def cost(plan: Plan) -> Any:
    todo = [s for (stage, v), s in plan.items() if not Path(RESULTS / stage / v / "manifest.json").exists()]
    return cost_of(todo, len(todo))


def test_nothing_is_known_before_a_smoke_run(planned: Planned) -> None:  # noqa: F811
    found = cost(planned(**STUDY))
    assert (found.jobs, found.model_jobs, found.known, found.minutes, found.gpu) == (16, 9, 0, 0.0, True)
    assert found.sentence() == (
        "16 jobs, 9 of which run the model; how many GPU minutes they take is unknown before a smoke run"
    )


def test_one_smoke_run_prices_the_full_runs_of_all_points(planned: Planned) -> None:  # noqa: F811
    plan = planned(**STUDY)
    smokes = [s for (stage, _), s in plan.items() if stage == "train_adapter" and s["settings"]["run"] == "smoke"]
    done(plan, lambda stage, spec: stage == "prepare_shards" or spec is smokes[0])
    found = cost(plan)
    assert (found.model_jobs, found.known) == (8, 3)  # two full runs, and the other smoke, which takes as long
    assert found.minutes == pytest.approx((2 * FULL_S + 760) / 60)
    assert "3 of these take about " in found.sentence() and "the others are unknown" in found.sentence()


def test_a_further_point_costs_what_the_others_took(planned: Planned) -> None:  # noqa: F811
    done(planned(**STUDY), lambda *_: True)
    more = planned(**STUDY | {"grid": {"train.lora.rank": [4, 16, 64]}})
    found = cost(more)
    assert (found.jobs, found.model_jobs, found.known) == (6, 4, 4)
    assert found.minutes == pytest.approx((FULL_S + 3 * 760) / 60)
    assert found.sentence() == "6 jobs, 4 of which run the model, which takes about 120 GPU minutes"


def test_gpus_of_a_job_count_each(planned: Planned) -> None:  # noqa: F811
    done(planned(**STUDY), lambda *_: True)
    two = STUDY | {"train": STUDY["train"] | {"gpus": 2}, "grid": {"train.lora.rank": [64]}}
    assert cost(planned(**two)).minutes > cost(planned(**STUDY | {"grid": two["grid"]})).minutes


@pytest.mark.parametrize("measured", [False, True])
def test_a_study_of_10000_runs_is_one_line_with_its_hours(planned: Planned, measured: bool) -> None:  # noqa: F811
    if measured:
        done(planned(**STUDY), lambda *_: True)
    ranks = {"train.lora.rank": list(range(1, 101)), "train.epochs": list(range(1, 101))}
    raw = LEAST | STUDY | {"grid": ranks}
    with pytest.raises(TooManyRuns) as error:
        parse_config(raw)
    line = too_many_runs(error.value, raw)
    assert line.startswith("the study has 10,000 runs, more than study.max_points (100); ")
    assert line.endswith("make it smaller, or set study.max_points to 10000") and "\n" not in line
    assert ("GPU hours are unknown before a smoke run" in line) != measured
    if measured:  # the first point has one epoch, so that its full run is shorter
        hours = (60 + 80 * 50 * 0.6 + 3 * 20 + 3 * 760) / 3600
        assert f"about {10_000 * hours:,.0f} GPU hours" in line


def test_what_a_study_has_in_words() -> None:
    def said(**keys: Any) -> str:
        return runs_in_words(parse_config(LEAST | keys))

    assert said() == "1 run"
    assert said(grid=STUDY["grid"]) == "2 runs"
    assert (
        said(grid=STUDY["grid"], seeds=3, data_sizes=[10, "all"]) == "12 runs of 4 methods, data sizes at equal steps"
    )
    assert said(data_sizes={"rows": [10], "equal": "epochs"}) == "1 run, data sizes at equal epochs"
