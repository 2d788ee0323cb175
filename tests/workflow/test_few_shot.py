"""Worked examples in the plan: further answers and grades, and neither shards nor training made again."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.launch import message
from dreamtune.workflow.plan import Plan
from rows import write_inputs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows and something that passes for a model."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    return tmp_path


def planned(**evaluate: Any) -> tuple[Plan, dict[str, Path]]:
    """Return the plan of an experiment, and its version folders by name."""
    sections = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}, "generate": {"sampled": {}}}
    plan, latest = make_plan(parse_config(sections | {"evaluate": evaluate}))
    return plan, latest["main"]


def test_worked_examples_make_nothing_anew_but_the_report() -> None:
    others = {"canvases": [64], "decoders": [{"name": "whole"}]}
    before, old = planned(**others)
    after, new = planned(**others, few_shot=4)
    assert {key[0] for key in before.keys() - after.keys()} == {"render_report"}
    settings = ("greedy", "whole")  # those with a verdict
    added = {f"{what}/test/{s}/few-shot-base" for what in ("answers", "scores") for s in settings}
    assert new.keys() - old.keys() == added
    assert {name for name in old if old[name] != new[name]} == {"report"}
    both = planned(**others, few_shot=4, few_shot_tuned=True)[1]
    assert both.keys() - new.keys() == {name.replace("base", "tuned") for name in added}
    spec = after["generate_answers", new["answers/test/greedy/few-shot-base"].name]
    assert spec["settings"]["few_shot"] == {"shots": 4, "example_tokens": None, "context": None}
    assert message(spec).startswith("answer the held-out rows with the base model and 4 worked examples (")


def test_the_number_of_examples_is_part_of_their_answers_alone() -> None:
    four, five = planned(few_shot=4)[1], planned(few_shot=5)[1]
    changed = {name for name in four if four[name] != five[name]}
    assert changed == {"answers/test/greedy/few-shot-base", "scores/test/greedy/few-shot-base", "report"}


def test_examples_for_the_tuned_model_alone_are_refused() -> None:
    with pytest.raises(UserError, match=r"few_shot_tuned needs worked examples; set evaluate.few_shot"):
        planned(few_shot_tuned=True)
