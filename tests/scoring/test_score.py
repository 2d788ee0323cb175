"""The strict and lenient readings, repetition, and the stage itself."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.scoring import score as scoring
from dreamtune.scoring.score import distinct, is_correct, reads_leniently, reads_strictly, repetition, score_answers
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"


def test_strict_and_lenient_readings() -> None:
    assert reads_strictly("The final answer is : 4 2 .", "42", MARKER)
    assert not reads_strictly("The final answer is: 42.0", "42", MARKER)
    assert not reads_strictly("42", "42", MARKER)
    assert reads_leniently("I think 42", "42", MARKER) is True
    assert reads_leniently("I think 42, or 43", "42", MARKER) is False
    assert reads_leniently("42", "forty-two", MARKER) is None


def test_repetition_and_distinct() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 104) == pytest.approx(1 - 1 / 101)
    assert repetition([1]) == 0.0
    assert distinct([1, 2, 1, 2], 2) == 2 / 3


def _answers(folder: Path, rows: list[tuple[int, str | None, str]]) -> Path:
    folder.mkdir()
    frame = pl.DataFrame(
        {
            "example_id": [r[0] for r in rows],
            "cluster": pl.Series([min(r[0], 1) for r in rows], dtype=pl.Int64),
            "sample": pl.Series([0] * len(rows), dtype=pl.Int32),
            "question": ["Which number?"] * len(rows),
            "answer": pl.Series([r[1] for r in rows], dtype=pl.String),
            "completion": [r[2] for r in rows],
            "tokens": [[1, 2, 3]] * len(rows),
            "ended": [True] * len(rows),
        }
    )
    frame.write_parquet(folder / "answers.parquet")
    return folder


def test_score_answers_counts_every_row_once(tmp_path: Path) -> None:
    essay = "Suppose the contrary, and consider the smallest such set in the family. " * 5
    rows = [
        (0, "42", "the final answer is: 42"),
        (1, "42", "the final answer is: 42.0"),
        (2, "42", "it is 42"),
        (3, essay, "the final answer is: 42"),
        (-1, None, "the final answer is: 42"),
    ]
    out = tmp_path / "out"
    out.mkdir()
    counts = score_answers(ScoreConfig(extractors=["final_answer"]), _answers(tmp_path / "answers", rows), out)
    assert counts == {"rows": 4, "own_prompts": 1, "gradable": 3, "ungradable": 1, "correct": 2}
    scores = pl.read_parquet(out / "scores.parquet").sort("example_id", descending=True)
    assert scores["gradable"].to_list() == [False, True, True, True, False]
    assert scores["cluster"].to_list() == [1, 1, 1, 0, -1], "copied from the answers"
    assert scores["correct"].to_list() == [None, False, True, True, None]
    assert scores["strict"].to_list() == [None, False, False, True, None]
    assert scores["lenient"].to_list() == [None, True, True, True, None]
    summary = json.loads((out / "scores.json").read_text())
    assert (summary["correct"], summary["strict"], summary["lenient"]) == (2, 1, 3)
    assert summary["parse_failed"] == 0.25
    assert summary["early_ends"] == 1  # the third ended before it said "the final answer is"


def test_both_readings_of_an_answer_that_goes_on_are_counted(tmp_path: Path) -> None:
    rambling = "The answer is 42.\n\nQuestion: What is 2 + 3?\nThe answer is 5."
    rows: list[tuple[int, str | None, str]] = [(0, "42", rambling), (1, "5", rambling), (2, "42", "The answer is 42.")]
    rows += [(3, "42", "The answer is 42.\n\nQuestion: What is 40 + 2?\nThe answer is 42.")]
    out = tmp_path / "out"
    out.mkdir()
    assert score_answers(ScoreConfig(), _answers(tmp_path / "answers", rows), out)["correct"] == 3
    scores = pl.read_parquet(out / "scores.parquet").sort("example_id")
    assert scores["cut"].to_list() == [True, True, False, True]
    assert scores["correct"].to_list() == [True, False, True, True]
    assert scores["uncut"].to_list() == [False, True, True, True]
    assert scores["extracted"].to_list() == ["42", "42", "42", "42"]
    summary = json.loads((out / "scores.json").read_text())
    assert (summary["cut"], summary["uncut_correct"], summary["uncut_otherwise"]) == (3, 3, 2)
    score_answers(ScoreConfig(cut=False), tmp_path / "answers", out)
    assert json.loads((out / "scores.json").read_text())["cut"] == 0


def test_an_undecided_answer_has_no_grade_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "equivalent", lambda answer, *_: None if answer == "x" else answer == "42")
    assert is_correct("the final answer is: 42", "42") is True and is_correct("the final answer is: x", "42") is False
    essay = "Suppose the contrary, and consider the smallest such set in the family. " * 5
    rows = [(0, "42", "the final answer is: 42"), (1, "42", "the final answer is: x"), (2, "42", "nothing")]
    rows += [(3, "42", "the final answer is: y"), (4, essay, "the final answer is: x")]
    out = tmp_path / "out"
    out.mkdir()
    counts = score_answers(ScoreConfig(extractors=["final_answer"]), _answers(tmp_path / "answers", [*rows]), out)
    assert counts == {"rows": 5, "own_prompts": 0, "gradable": 4, "ungradable": 1, "correct": 1, "undecided": 1}
    scores = pl.read_parquet(out / "scores.parquet").sort("example_id")
    assert scores["gradable"].to_list() == [True, True, True, True, False]
    assert scores["correct"].to_list() == [True, None, False, False, None]
    assert scores["undecided"].to_list() == [False, True, False, False, False]
    assert scores["strict"].to_list() == [True, False, False, False, None]
    assert json.loads((out / "scores.json").read_text())["undecided"] == 1


def test_no_rows_and_missing_columns(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert score_answers(ScoreConfig(), _answers(tmp_path / "none", []), out)["rows"] == 0
    assert json.loads((out / "scores.json").read_text())["ended"] is None
    pl.DataFrame({"example_id": [1], "cluster": [1]}).write_parquet(tmp_path / "answers.parquet")
    with pytest.raises(UserError, match="no column 'sample'"):
        score_answers(ScoreConfig(), tmp_path, out)


def test_what_touches_no_model_imports_no_torch() -> None:
    modules = ", ".join(
        f"dreamtune.{m}" for m in ("scoring.score", "evaluate.verdict", "evaluate.intervals", "report.render")
    )
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})
