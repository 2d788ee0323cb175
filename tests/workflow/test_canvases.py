"""The canvases noted beside the shards: of all experiments, not in the version, and said where shards are finished."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamtune.config import parse_config
from dreamtune.workflow.canvases import warnings_of_finished
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.plan import Plan
from rows import write_inputs
from versions import finish


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows and something that passes for a model."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    return tmp_path


def planned(**experiments: dict[str, Any]) -> tuple[Plan, str]:
    """Return the plan of these experiments, and the version of the shards, which all of them share."""
    sections = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}, "train": {"max_tail": 16}}
    plan, _ = make_plan(parse_config(sections | {"experiments": experiments}))
    [shards] = [version for stage, version in plan if stage == "prepare_shards"]
    return plan, shards


def test_shards_know_the_canvases_of_all_experiments_and_do_not_depend_on_them() -> None:
    long = {"generate": {"block_length": 8, "sampled": {}}, "train": {"cut_share": 0.5}}
    plan, shards = planned(short={"generate": {"max_new_tokens": 32}}, long=long)
    canvases = plan["prepare_shards", shards]["canvases"]
    assert canvases.keys() == {"short, greedy", "long, greedy", "long, sampled"}
    whole = {"longest_tail": 16, "cuts": False, "max_new_tokens": 32, "block_length": None, "lookahead": None}
    assert canvases["short, greedy"] == whole
    assert canvases["long, sampled"] == {
        **whole,
        "cuts": True,
        "max_new_tokens": 512,
        "block_length": 8,
        "lookahead": 16,
    }
    assert planned(short={"generate": {"max_new_tokens": 99}})[1] == shards


def test_finished_shards_are_compared_with_the_settings_as_they_are_now(folder: Path) -> None:
    plan, shards = planned(x={"generate": {"max_new_tokens": 32}})
    assert list(warnings_of_finished(plan)) == []  # prepare_shards will say it
    made = folder / "results/prepare_shards" / shards
    made.mkdir(parents=True)
    lengths = {"p05": 24.0, "p95": 32.0, "max": 32}
    (made / "audit.json").write_text(json.dumps({"response_tokens": {"train": lengths}}))
    finish(made, plan["prepare_shards", shards])
    assert list(warnings_of_finished(plan)) == []
    fits = {"generate": {"block_length": 16, "lookahead": 0}, "train": {"cut_share": 0.1}}
    plan, _ = planned(x={"generate": {"max_new_tokens": 80}}, y=fits)
    [text] = warnings_of_finished(plan)
    assert text.startswith("x, greedy: up to 56 masked positions stand behind an answer's end")


def test_base_and_tuned_answer_with_the_lookahead_of_the_training() -> None:
    """It is part of their versions; the base's answers are made again only where the lookahead changes."""
    config = {"generate": {"block_length": 8}, "evaluate": {"canvases": [512, 64]}}
    plan, _ = planned(x=config)
    generations = {version: spec for (stage, version), spec in plan.items() if stage == "generate_answers"}
    limits = sorted(spec["settings"]["generate"]["max_new_tokens"] for spec in generations.values())
    assert limits == [64, 64, 512, 512]  # canvas-512 is the headline
    assert {spec["settings"]["generate"]["lookahead"] for spec in generations.values()} == {16}
    base = {version for version, spec in generations.items() if "adapter" not in spec["reads"]}
    longer, _ = planned(x=config | {"train": {"long_tail": 40}})
    assert base == base & {version for _, version in longer}
    further, _ = planned(x=config | {"train": {"max_tail": 17}})
    assert not base & {version for _, version in further}
