"""Conversations through every stage of the workflow."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from conversations import make_chat_model, sums, write_rows
from project import MICRO, Project


@pytest.mark.slow
def test_conversations_go_through_every_stage(tmp_path: Path) -> None:
    project = Project(tmp_path)
    make_chat_model(tmp_path / "model")
    write_rows(tmp_path / "rows.parquet", sums(60))
    config = yaml.safe_load((tmp_path / MICRO).read_text())
    config["model"] |= {"path": "model", "quantization": "none"}
    split = {"validation": 0.1, "test": 0.25}
    columns = {"messages": "messages"}
    config["data"] = {"files": ["rows.parquet"], "columns": columns, "split": split, "chat": {"system": "Be brief."}}
    config["score"] = {}
    config["generate"] |= {"sampled": None, "prompts": ["What is 2 + 2?"]}
    config["experiments"] = {"likely": {}, "boxed": {"score": {"answer": "boxed"}}}
    (tmp_path / MICRO).write_text(yaml.safe_dump(config))
    project.snakemake()
    found = {name: tmp_path / "results/latest" / name for name in config["experiments"]}
    summaries = {name: json.loads((folder / "summary.json").read_text()) for name, folder in found.items()}
    assert {name: summary["primary"] for name, summary in summaries.items()} == {"likely": "nll", "boxed": "accuracy"}
    checks = json.loads((found["likely"] / "full/gate.json").read_text())["checks"]
    assert [c["passed"] for c in checks if c["name"].startswith("later_turns_hidden")] == [True, True]
    scores = pl.read_parquet(found["boxed"] / "scores-test-greedy-tuned/scores.parquet").filter(
        pl.col("example_id") >= 0
    )
    turns = pl.read_parquet(found["boxed"] / "shards/turns.parquet")
    graded = scores.join(turns, on="example_id").select("turn", "gradable")
    assert set(graded.iter_rows()) == {(1, False), (2, True)}
    page = (found["likely"] / "report.html").read_text()
    assert "What was said before" in page and "<dt>Assistant turns</dt><dd>120</dd>" in page
    assert project.stale() == {}
