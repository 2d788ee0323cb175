"""Rows and conversations in one configuration: what its plan and its stages make of either kind."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conversations import dialogue, make_chat_model, reference_tokenizer, sums, write_rows
from dreamtune.config import Config, Experiment, parse_config
from dreamtune.data.prepare import prepare_shards
from dreamtune.formats.shards import COPY
from dreamtune.generate.answers import generate_answers
from dreamtune.scoring.references import audit_references
from dreamtune.scoring.score import score_answers
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train.train import train_adapter
from dreamtune.workflow.columns import check_columns
from dreamtune.workflow.experiments import make_plan
from planted import QUICK, checks


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Thirty conversations, each shown twice, and thirty rows; judged by likelihood, by a column, by an extractor."""
    monkeypatch.chdir(tmp_path)
    make_chat_model(tmp_path / "model")
    write_rows(tmp_path / "chats.jsonl", sums(30))
    write_rows(tmp_path / "rows.parquet", [{"q": f"{n} - 1?", "a": str(n - 1)} for n in range(30)])
    chats = {"name": "chats", "files": ["chats.jsonl"], "columns": {"messages": "messages"}, "weight": 2}
    columns = {"question": "q", "reasoning": None, "answer": "a"}
    data = {
        "sources": [chats, {"name": "rows", "files": ["rows.parquet"], "columns": columns}],
        "template": "Compute {question}\n{answer}",
        "split": {"validation": 0.0, "test": 0.3},
    }
    scores = {"likely": None, "column": "final", "boxed": "boxed"}
    experiments = {name: {"score": {"answer": answer}} for name, answer in scores.items()}
    model = {"path": "model", "quantization": "none", "dtype": "float32", "device": "cpu", "threads": 1}
    return parse_config({"model": model, "data": data, "experiments": experiments})


def prepared(experiment: Experiment, out: Path) -> Path:
    out.mkdir()
    prepare_shards(experiment.data, experiment.model, out, graded=experiment.graded)
    return out


def test_the_plan_asks_each_source_for_its_own_columns(config: Config) -> None:
    plan, _ = make_plan(config)
    check_columns(plan.values())  # the column `final` is in the conversations alone
    primary = {name: experiment.comparison.primary for name, experiment in config.experiments.items()}
    assert primary == {"likely": "nll", "column": "accuracy", "boxed": "accuracy"}
    assert len({version for stage, version in plan if stage == "prepare_shards"}) == 3


def test_both_kinds_train_together_and_pass_the_canaries(config: Config, tmp_path: Path) -> None:
    experiment = config.experiments["likely"]
    shards, out = prepared(experiment, tmp_path / "shards"), tmp_path / "out"
    out.mkdir()
    train = TrainConfig(**(QUICK | {"rows": None, "max_steps": 3}))
    train_adapter(train, experiment.model, shards, out, tmp_path / "work")
    found = checks(out)
    assert [name for name, check in found.items() if check["hard"] and check["passed"] is False] == []
    assert [found[f"later_turns_hidden_{place}_window"]["passed"] for place in ("first", "last")] == [True, True]
    trained = {source["name"]: source for source in json.loads((out / "training.json").read_text())["sources"]}
    assert all(trained[name]["loss_tokens"] > 0 and trained[name]["first_loss"] > 0 for name in ("chats", "rows"))


@pytest.mark.parametrize(
    ("name", "gradable", "said"),
    [
        ("likely", {"rows"}, "references: 10 of 10 test rows can be graded"),
        ("column", {"chats", "rows"}, "references: 21 of 21 test rows can be graded"),
        ("boxed", {"chats"}, "references: 11 of 21 test rows can be graded (10: no short answer is marked)"),
    ],
)
def test_rows_and_last_turns_are_asked_and_graded_in_their_own_ways(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, gradable: set[str], said: str
) -> None:
    """Earlier turns have no reference, and are no rows that the user forgot to mark."""
    experiment, out = config.experiments[name], tmp_path / "out"
    shards = prepared(experiment, tmp_path / "shards")
    out.mkdir()
    capsys.readouterr()
    audit_references(experiment.score, shards, out)
    assert capsys.readouterr().err.startswith(said)
    generate_answers(GenerateConfig(max_new_tokens=8, steps=2), experiment.model, shards, None, None, out)
    counts = score_answers(experiment.score, out, out)
    test = {row["example_id"]: row for row in read_split(shards, "test")}
    assert counts["rows"] == len(test) == 32 and max(test) < COPY
    second = read_meta(shards)["sources"][1]["first_id"]
    scores = pl.read_parquet(out / "scores.parquet")
    graded = {row["example_id"] for row in scores.iter_rows(named=True) if row["gradable"]}
    assert {"rows" if number >= second else "chats" for number in graded} == gradable
    turns = dict(pl.read_parquet(shards / "turns.parquet").select("example_id", "turn").iter_rows())
    assert all(turns[number] == 2 for number in graded if number < second), "a last turn"
    reference = reference_tokenizer(str(tmp_path / "model"))
    answers = pl.read_parquet(out / "answers.parquet")
    for row in answers.iter_rows(named=True):
        if row["example_id"] >= second:
            asked: list[dict[str, Any]] = dialogue(f"Compute {row['question']}")
            rendered = reference.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
            assert row["prompt_tokens"] == len(rendered), "a row is one user turn of the chat template"
