"""What the plan takes from several sources: files by content, conditions, and everything that contradicts itself."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.inputs.hub import hub_sources
from dreamtune.settings.data import DataConfig
from dreamtune.workflow.containers import named_paths
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.plan import Plan
from rows import write_model


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    for number, name in enumerate("abc"):
        rows = {
            "question": ["w4", "w5"],
            "reasoning": ["", ""],
            "answer": ["w6", f"w{7 + number}"],
            "score": [0.1, 0.9],
        }
        pl.DataFrame(rows).write_parquet(f"{name}.parquet")
    return tmp_path


def planned(*files: list[str], **first: Any) -> Plan:
    sources: list[dict[str, Any]] = [{"files": paths} for paths in files or [["a.parquet"], ["b.parquet"]]]
    sources[0] |= first
    config = {"model": {"path": "model", "quantization": "none"}, "data": {"sources": sources}}
    return make_plan(parse_config(config))[0]


def shards(plan: Plan) -> tuple[str, dict[str, Any]]:
    [(version, spec)] = [(version, spec) for (name, version), spec in plan.items() if name == "prepare_shards"]
    return version, spec


def test_contents_and_grouping_belong_to_the_version_and_paths_do_not() -> None:
    version = shards(planned(["a.parquet", "b.parquet"], ["c.parquet"]))[0]
    assert shards(planned(["a.parquet"], ["b.parquet", "c.parquet"]))[0] != version
    shutil.copy("a.parquet", "moved.parquet")
    assert shards(planned(["moved.parquet", "b.parquet"], ["c.parquet"]))[0] == version
    for changed in ({"weight": 2.0}, {"rows": 1}, {"where": "score > 0.5"}, {"name": "first"}):
        assert shards(planned(["a.parquet", "b.parquet"], ["c.parquet"], **changed))[0] != version


def test_a_job_gets_the_sources_as_they_were_given() -> None:
    _, spec = shards(planned(weight=0.5, where="score > 0.5"))
    assert "a.parquet" not in str(spec["settings"]) and len(spec["inputs"]["data"]) == 2
    data = DataConfig.model_validate(spec["settings"]["data"] | spec["runtime"]["data"])
    first, second = data.named_sources
    assert (first.name, first.files, first.weight) == ("source_1", ["a.parquet"], 0.5)
    assert (second.name, second.files, second.where) == ("source_2", ["b.parquet"], None)


def test_files_on_the_hub_are_found_and_containers_see_the_others() -> None:
    assert {Path("a.parquet"), Path("b.parquet")} <= set(named_paths(planned().values()))
    address = f"hf://datasets/me/sums@{'0' * 40}/train.parquet"
    _, spec = shards(planned(["a.parquet"], [address]))
    assert hub_sources(spec["inputs"]) == [address]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"where": "scores > 0.5"}, "no column 'scores' (did you mean 'score'?)"),
        ({"where": "question > 5"}, "cannot compare string with numeric type"),
        ({"where": "AVG(score) > 0.5"}, "does not look at one row alone"),
        ({"where": "score"}, "gives Float64, and not true or false"),
        ({"columns": {"question": "q"}}, "has no column 'q'"),
        ({"files": ["d.parquet"]}, "no file matches d.parquet"),
        ({"weights": 2}, "weight"),
        ({"weight": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_job(first: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        planned(**first)
    assert said in str(error.value) and "\n" not in str(error.value)
