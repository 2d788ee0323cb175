"""Our grades against published ones: benchmarks/grading_agreement.py, its document and its judgements."""

import re
import subprocess
from pathlib import Path

import polars as pl
import pytest

import warm
from conftest import ROOT, SHARED, needs_shared
from dreamtune.scoring.score import is_correct

# Completions of the kinds on which graders differ, each with the grade it deserves.
HAND_MADE = [
    ("so he has 12 left.\n</reasoning>\n<answer>\n\\boxed{12>", "12.0", True),
    ("<answer>\n\\boxed{7,250}\n</answer>", "7250.0", True),
    ("She needs 3 + 4 = 7 pots.\n</reasoning>", "7.0", True),
    ("<answer>\\boxed{9:00 am}</answer>", "9.0", True),
    ("<answer>\\boxed{Tom has 3 coins more than Ann.}</answer>", "3.0", True),
    ("\\boxed{\\frac{3}{4}}", "3.0", False),
    ("\\boxed{640} and then <answer>\\boxed{64}</answer>", "640.0", False),
    ("\\boxed{x = \\frac{6}{8}}", "\\frac{3}{4}", True),
    ("\\boxed{[-1, 4]}", "x \\in [-1,4]", True),
    ("\\boxed{(-1, 4]}", "x \\in [-1,4]", False),
]


@pytest.mark.parametrize(("completion", "reference", "correct"), HAND_MADE)
def test_kinds_of_disagreement(completion: str, reference: str, correct: bool) -> None:
    assert is_correct(completion, reference) is correct


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [warm.python(), str(ROOT / "benchmarks/grading_agreement.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@needs_shared
def test_agreement_with_published_grades_and_every_disagreement_is_judged() -> None:
    """LLaDA-8B-Instruct on GSM8K and MATH-500, graded by others; many disagreements are their string comparison."""
    done = run(str(SHARED / "reference/llada_generations"), "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^\| all \| ([\d,]+) \| ([\d,]+) \|", done.stdout, re.MULTILINE)
    assert found is not None
    rows, agreed = (int(number.replace(",", "")) for number in found.groups())
    assert rows == 3260
    assert agreed / rows >= 0.97


def test_a_disagreement_without_a_judgement_fails(tmp_path: Path) -> None:
    row = {"question": ["How many?"], "completion": ["\\boxed{5}"], "ground_truth": ["5"], "published_correct": [False]}
    pl.DataFrame(row).write_parquet(tmp_path / "made_up.parquet")
    done = run(str(tmp_path), "--check")
    assert done.returncode == 1
    assert "not judged yet: made_up/0/" in done.stderr
    assert "no disagreement any more: gsm8k_128/" in done.stderr
    assert "parquet" in run(str(tmp_path / "nothing")).stderr
