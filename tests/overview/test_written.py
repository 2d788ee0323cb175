"""When the page is written: the plan of a real configuration, and how often a large study writes it."""

import os
import time
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.files import read_json
from dreamtune.formats.study_schema import study_schemas
from dreamtune.overview.members import members_of, read_members, write_members
from dreamtune.overview.page import write_page
from dreamtune.overview.states import state_of
from dreamtune.workflow import publish
from dreamtune.workflow.experiments import make_plan, plan_study
from rows import write_model
from tests.overview.studies import LATEST, LEAST, Studies


def test_the_plan_names_the_folders_of_each_run_in_the_order_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["q"], "reasoning": ["r"], "answer": ["1"]}).write_parquet("rows.parquet")
    config = parse_config(LEAST | {"experiments": {"a": {}, "b": {"train": {"warmup": 0.5}}}, "seeds": 2})
    plan, latest = make_plan(config)
    members = members_of(config, latest, plan_study(plan, config, latest))
    first = members.runs[0]
    assert [*first.folders][:5] == ["shards", "references", "smoke", "full", "likelihood"]
    assert [*first.folders][-1] == "report" and "answers/test/greedy/tuned" in first.folders
    assert members.study.startswith("results/study/") and members.settings == ["train.warmup"]
    assert state_of(first, {}).reason == "waits for shards"
    write_members(LATEST, members)
    jsonschema.validate(read_json(LATEST / "members.json"), study_schemas()["members"])
    before = (LATEST / "members.json").stat().st_mtime_ns
    write_members(LATEST, members)
    assert read_members(LATEST) == members and (LATEST / "members.json").stat().st_mtime_ns == before
    write_page(LATEST, {})
    page = (LATEST / "index.html").read_text()
    assert "4 not run" in page and page.count("waits for shards") == 5, "each run, and what methods wait for"


def test_a_large_study_writes_its_page_once_a_minute(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(publish, "write_page", lambda *given: written.append(given))
    studies.make(compared=False, experiments={"a": {}, "b": {}}, seeds=2)
    page = LATEST / "index.html"
    page.write_text("")
    publish.write_index_of_some(LATEST)
    assert len(written) == 1, "a small study writes it each time"
    monkeypatch.setattr(publish, "OFTEN", 3)
    publish.write_index_of_some(LATEST)
    assert len(written) == 1
    os.utime(page, (time.time() - 61, time.time() - 61))
    publish.write_index_of_some(LATEST)
    assert len(written) == 2
    page.unlink()
    publish.write_index_of_some(LATEST)
    assert len(written) == 3
