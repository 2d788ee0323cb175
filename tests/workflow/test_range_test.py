"""Versions under `train.learning_rate: find`: full depends on smoke, which finds its rate; numbers plan as before."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamtune.config import parse_config
from dreamtune.workflow.demand import minutes
from dreamtune.workflow.experiments import make_plan
from rows import write_inputs
from versions import finish


@pytest.fixture(autouse=True)
def _inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)


def planned(rate: Any, **smoke: Any) -> tuple[Any, dict[str, Path]]:
    sections = {"train": {"learning_rate": rate}, "smoke": smoke}
    raw = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}, **sections}
    plan, latest = make_plan(parse_config(raw))
    return plan, latest["main"]


def spec(plan: Any, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = plan[folder.parent.name, folder.name]
    return found


def test_the_full_run_depends_on_the_smoke_run_that_finds_its_rate() -> None:
    plan, latest = planned("find")
    other = planned("find", rows=32)[1]
    full = spec(plan, latest["full"])
    assert full["reads"]["gate"] == latest["smoke"].as_posix() and full["order_only"] == {}
    assert full["settings"]["train"]["learning_rate"] == "find"
    assert latest["smoke"] != other["smoke"] and latest["full"] != other["full"]
    assert latest["likelihood"] != other["likelihood"]
    assert plan.inputs_of("train_adapter", latest["full"].name)["gate"] == f"{latest['smoke']}/manifest.json"


def test_with_a_number_smoke_stays_a_gate_that_is_only_waited_for() -> None:
    plan, latest = planned(2e-5)
    full = spec(plan, latest["full"])
    assert full["order_only"]["gate"] == latest["smoke"].as_posix() and set(full["reads"]) == {"shards"}
    assert full["settings"]["train"]["learning_rate"] == 2e-5
    assert latest["full"] == planned(2e-5, rows=32)[1]["full"]
    assert latest["full"] == planned("2e-5")[1]["full"], "YAML 1.1 reads it as text"


def test_the_full_run_still_asks_for_the_time_that_smoke_predicts() -> None:
    plan, latest = planned("find")
    full = spec(plan, latest["full"])
    with pytest.raises(FileNotFoundError, match=latest["smoke"].name):
        minutes(full, attempt=1)
    plan.freeze()
    smoke = {"tokens": 1_000, "steps": 8, "seconds_per_token": 0.6, "fit_s": 0.5, "processes": 1, "validation": []}
    smoke |= {"validation_s": 0.0, "ran_as": {"micro_batch_tokens": 32}}
    for folder, name, content in (
        (latest["smoke"], "training.json", smoke),
        (latest["shards"], "shards.json", {"splits": {"train": {"rows": 100, "tokens": 4_000}}}),
    ):
        (folder / name).write_text(json.dumps(content))
        finish(folder, spec(plan, folder))
    assert minutes(full, attempt=1) > 60
