"""What the plan of an experiment takes from its configuration: benchmarks, stop texts, the order of stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.plan import Plan
from rows import write_model


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows, two benchmarks and something that passes for a model."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    for name in ("rows", "one", "two"):
        pl.DataFrame({"question": [name], "reasoning": [""], "answer": ["1"]}).write_parquet(f"{name}.parquet")
    return tmp_path


def planned(contaminated: str, benchmarks: dict[str, str]) -> tuple[Plan, str, set[str]]:
    """Return the plan, the shards' version and those of training."""
    named = [{"name": name, "files": [file]} for name, file in benchmarks.items()]
    config: dict[str, Any] = {
        "model": {"path": "model"},
        "data": {"files": ["rows.parquet"], "contaminated": contaminated},
        "evaluate": {"benchmarks": named},
    }
    plan, _ = make_plan(parse_config(config))
    [shards] = [version for stage, version in plan if stage == "prepare_shards"]
    return plan, shards, {version for stage, version in plan if stage == "train_adapter"}


ONE, BOTH = {"one": "one.parquet"}, {"one": "one.parquet", "two": "two.parquet"}


def test_under_keep_a_benchmark_more_retrains_nothing() -> None:
    _, *before = planned("keep", {})
    for benchmarks in (ONE, BOTH):
        plan, *after = planned("keep", benchmarks)
        assert after == before
        assert set(plan["prepare_shards", after[0]]["inputs"]) == {"data", "tokenizer"}  # type: ignore[index]


def test_under_drop_the_shards_follow_the_benchmarks_content_and_not_its_path(folder: Path) -> None:
    _, shards, training = planned("drop", ONE)
    (folder / "moved").mkdir()
    shutil.move("one.parquet", "moved/one.parquet")
    moved = {"one": "moved/one.parquet"}
    assert planned("drop", moved)[1:] == (shards, training)
    assert planned("drop", moved | {"two": "two.parquet"})[1] != shards
    pl.DataFrame({"question": ["another"], "answer": ["1"]}).write_parquet("moved/one.parquet")
    _, changed, retrained = planned("drop", moved)
    assert changed != shards and not training & retrained


def test_another_mask_token_makes_shards_and_training_anew_and_is_checked_by_the_plan() -> None:
    config: dict[str, Any] = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}}
    plain, _ = make_plan(parse_config(config))
    other, _ = make_plan(parse_config(config | {"model": {"path": "model", "mask_token": "[UNK]"}}))
    [shards] = [spec for (stage, _), spec in other.items() if stage == "prepare_shards"]
    assert shards["settings"]["mask_token"] == shards["runtime"]["model"]["mask_token"] == "[UNK]"
    assert not plain.keys() & other.keys()
    with pytest.raises(UserError, match=r"model\.mask_token is '<m>', which for model is no token of its tokenizer"):
        make_plan(parse_config(config | {"model": {"path": "model", "mask_token": "<m>"}}))
    with pytest.raises(UserError, match=r"model\.family is 'llama', and model/config\.json"):
        make_plan(parse_config(config | {"model": {"path": "model", "family": "llama"}}))
    write_model(Path("model"), rows=50)
    with pytest.raises(UserError, match="is larger than the model: its token 'A' has the id 102"):
        make_plan(parse_config(config))


def test_the_order_of_the_benchmarks_does_not_matter() -> None:
    assert planned("drop", BOTH)[1] == planned("drop", dict(reversed(BOTH.items())))[1]


def test_the_job_finds_the_benchmarks_in_its_frozen_config(folder: Path) -> None:
    plan, shards, _ = planned("drop", BOTH)
    plan.freeze()
    frozen = json.loads((folder / "results/prepare_shards" / shards / "config.json").read_text())
    assert frozen["settings"]["benchmark/two"] == {"name": "two", "question": "question", "answer": "answer"}
    assert frozen["runtime"]["benchmark/two"] == {"files": ["two.parquet"]}
    assert set(frozen["inputs"]) == {"data", "tokenizer", "benchmark/one", "benchmark/two"}


def test_the_templates_own_prompt_stops_an_answer_unless_the_configuration_names_texts() -> None:
    base: dict[str, Any] = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}}
    base["data"]["template"] = "Riddle me this >> {question}\\n{reasoning}\\nSo it is {answer}"
    for given, wanted in (({}, ["Riddle me this >>"]), ({"stop_texts": ["END"]}, ["END"]), ({"stop_texts": []}, [])):
        plan, _ = make_plan(parse_config(base | {"score": given}))
        specs = [plan[stage, version] for stage, version in plan if stage in ("score_answers", "audit_references")]
        assert specs and all(spec["settings"]["score"]["stop_texts"] == wanted for spec in specs)


def test_references_are_counted_before_any_training_and_an_edit_of_the_grader_trains_nothing() -> None:
    config: dict[str, Any] = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}}
    trained = []
    for marker in ("the answer is", "in short"):
        plan, _ = make_plan(parse_config(config | {"score": {"marker": marker}}))
        [counted] = [version for stage, version in plan if stage == "audit_references"]
        trained.append({version for stage, version in plan if stage == "train_adapter"})
        before = [spec["order_only"] for (stage, _), spec in plan.items() if stage == "train_adapter"]
        assert {"references": f"results/audit_references/{counted}"} in before
    assert trained[0] == trained[1]
