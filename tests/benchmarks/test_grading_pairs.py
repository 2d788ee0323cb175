"""The share of pairs that are graded as they deserve: benchmarks/grading_pairs.py."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHARED, needs_shared

sys.path.insert(0, str(ROOT / "benchmarks"))
import grading_pairs

sys.path.pop(0)


def options(file: Path, grades: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(file=file, wrong=True, grades=grades, busy=0, at_least=0.0)


def test_pairs_are_counted_by_kind_and_wrong_ones_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [
        {"kind": "boxes", "completion": "\\boxed{5}", "solution": "5", "right": True},
        {"kind": "boxes", "completion": "\\boxed{5}", "solution": "6", "right": False},
        {"kind": "made up", "completion": "\\boxed{7}", "solution": "8", "right": True},  # a grade it cannot deserve
    ]
    file, grades = tmp_path / "pairs.jsonl", tmp_path / "grades.txt"
    file.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    assert grading_pairs.main(options(file, grades)) == pytest.approx(2 / 3)
    said = capsys.readouterr().out
    assert "| boxes | 2 | 2 | 100.0% |" in said and "| all | 3 | 2 | 66.7% |" in said
    assert json.loads(said.splitlines()[0])["answer"] == "7"
    assert grades.read_text() == "true\nfalse\nfalse\n"


@needs_shared
def test_the_pairs_with_their_right_grades() -> None:
    """Handed out with their grades while the rules were written, so this is no held-out measure."""
    assert grading_pairs.main(options(SHARED / "cases/grading_pairs.jsonl")) >= 0.97
