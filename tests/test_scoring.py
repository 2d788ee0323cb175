"""Extraction, equivalence, hostile answers, agreement with published grades, and the stage itself."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.errors import UserError
from dreamtune.extraction import asks_for_a_proof, extract, reference_answer
from dreamtune.grading import equivalent
from dreamtune.scoring import distinct, is_correct, reads_leniently, reads_strictly, repetition, score_answers
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"
ALL = ["boxed", "answer_tag", "final_answer", "last_number"]


@pytest.mark.parametrize(
    ("completion", "answer", "extractor"),
    [
        (r"so \boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{1 + \boxed{2}}", "2", "boxed"),
        (r"<answer>\boxed{8</answer>", "8", "answer_tag"),
        ("<answer> 12 apples </answer> 99", "12 apples", "answer_tag"),
        ("Therefore, The final  answer is : 4 2\nand 7", "4 2", "final_answer"),
        ("the final answer is: x+1. I hope it is correct.", "x+1", "final_answer"),
        ("I count 3 and then 1,234.5 of them", "1,234.5", "last_number"),
        ("nothing at all", None, None),
        (r"\boxed{", None, None),
        ("<|endoftext|>5<|eot_id|>", "5", "last_number"),
    ],
)
def test_extractors(completion: str, answer: str | None, extractor: str | None) -> None:
    assert extract(completion, ALL, MARKER) == (answer, extractor)


def test_the_configured_order_decides() -> None:
    text = r"\boxed{1} the final answer is: 2"
    assert extract(text, ["final_answer", "boxed"], MARKER)[0] == "2"
    assert extract(text, ["boxed", "final_answer"], MARKER)[0] == "1"
    assert extract("5", ["final_answer"], MARKER) == (None, None)


EQUAL = [
    ("0.5", r"\frac{1}{2}"), ("1,000", "1000"), ("18.0", "18"), (r"\$18.90", "18.9"), ("12 cm", "12"), ("4 2", "42"),
    (r"120\text{ minutes}", "120"), ("50%", "50"), (r"50\%", "0.5"), ("x=5", "5"), ("3, 5, 7", "7, 3, 5"),
    (r"\text{(C)}", "C"), ("(b)", "B"), ("B. because", "B"), (r"\text{East}", "east"), ("[1,2)", "[1, 2)"),
    (r"90^\circ", "90"), (r"\sqrt{50}", r"5\sqrt{2}"), ("7i - 2", "-2+7i"), (r"x \in [-2,7]", "[-2,7]"),
    ("$12$.", "12"), ("−3", "-3"), (r"\dfrac{3}{4}", r"\frac 34"), ("Juan Pérez", "juan  pérez"), ("2(x+1)", "2x+2"),
]  # fmt: skip
DIFFERENT = [
    ("4 2", "6"), ("42", "43"), ("Navin", "Vanni"), ("5x", "5"), ("(1,2)", "[1,2]"), ("A", "B"), ("5 million", "5"),
    ("0.33", r"\frac{1}{3}"), ("", "5"), ("2,3", "2,4"), ("-5", "5"), ("x+1", "x-1"), ("north", "5"), ("50%", "0.05"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reference"), EQUAL)
def test_equal(answer: str, reference: str) -> None:
    assert equivalent(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different(answer: str, reference: str) -> None:
    assert not equivalent(answer, reference)


HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower in parentheses": "9^(9^(9^9))",
    "tower in Python": "9**9**9**9",
    "tower with spaces": "9 ^ { 9 ^ { 9 ^ { 9 } } }",
    "huge exponent": "2^{9999999999}",
    "factorial": "99999999999!",
    "factorial of a power": "(10^{10})!",
    "binomial": r"\binom{1000000000}{500000000}",
    "product of towers": r"10^{2\cdot 10^{9}}",
    "braces": "{" * 100_000,
    "boxes": r"\boxed{" * 100_000,
    "closed boxes": r"\boxed{" * 20_000 + "1" + "}" * 20_000,
    "parentheses": "(" * 140 + "1" + ")" * 140,
    "roots": r"\sqrt{" * 40 + "2" + "}" * 40,
    "fractions": r"\frac{1}{1+" * 20 + "1" + "}" * 20,
    "digits": "9" * 100_000,
    "nested binomials": r"\binom{\binom{99}{9}}{\binom{99}{8}}",
    "markers": MARKER * 5_000,
    "control": "\x00\u202e\ud800",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_cost_a_second_at_most(name: str) -> None:
    text = HOSTILE[name]
    for completion in (text, rf"\boxed{{{text}}}", f"{MARKER} {text}"):
        start = time.monotonic()
        assert is_correct(completion, "17") is False
        assert is_correct(completion, r"\frac{17}{x}") is False
        assert time.monotonic() - start <= 2.2  # two gradings


def test_a_running_timer_survives_grading() -> None:
    signal.setitimer(signal.ITIMER_REAL, 500)
    try:
        equivalent(r"\frac{1}{7}", "x+y+1/7")
        assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_grading_works_outside_the_main_thread() -> None:
    code = (
        "import threading; from dreamtune.scoring import is_correct; out = []\n"
        r"t = threading.Thread(target=lambda: out.append(is_correct(r'\boxed{\frac{2}{4}}', '0.5')))"
        "\nt.start(); t.join(); assert out == [True]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        ("18", "18"),
        ("She has 16 - 3 - 4 = 9.\n#### 18", "18"),
        ("A long proof. " * 30 + r"Hence $\boxed{p - q}$.", "p - q"),
        ("### Answer: INCIDENT ROOM \n ### Explanation: it is an anagram", "INCIDENT ROOM"),
        ("[7, 8, 9, 70, 80, 90]", "[7, 8, 9, 70, 80, 90]"),
        ("1. **Partition the domain**: we split it.\n2. Done. " * 20, None),
        ("Assume that X is not countable and cover it by compact sets which are then themselves covered.", None),
        (r"either $\boxed{2}$ or $\boxed{5}$", None),
        (r"so \boxed{5}, that is \boxed{5}", "5"),
        ("#### Lemma 8:\nlong " + "proof " * 40, None),
        ("", None),
    ],
)
def test_references_without_a_checkable_answer_are_recognised(solution: str, reference: str | None) -> None:
    assert reference_answer(solution, MARKER) == reference


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
    assert scores["correct"].to_list() == [None, False, True, True, None]
    assert scores["strict"].to_list() == [None, False, False, True, None]
    assert scores["lenient"].to_list() == [None, True, True, True, None]
    summary = json.loads((out / "scores.json").read_text())
    assert (summary["correct"], summary["strict"], summary["lenient"]) == (2, 1, 3)
    assert summary["parse_failed"] == 0.25


def test_no_rows_and_missing_columns(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert score_answers(ScoreConfig(), _answers(tmp_path / "none", []), out)["rows"] == 0
    assert json.loads((out / "scores.json").read_text())["ended"] is None
    pl.DataFrame({"example_id": [1]}).write_parquet(tmp_path / "answers.parquet")
    with pytest.raises(UserError, match="no column 'sample'"):
        score_answers(ScoreConfig(), tmp_path, out)


@needs_shared
def test_agreement_with_published_grades() -> None:
    """LLaDA-8B-Instruct on GSM8K and MATH-500, graded by others; many disagreements are their string comparison."""
    agreed = rows = 0
    for file in sorted((SHARED / "reference" / "llada_generations").glob("*.parquet")):
        for row in pl.read_parquet(file).iter_rows(named=True):
            agreed += is_correct(row["completion"], row["ground_truth"]) == row["published_correct"]
            rows += 1
    assert rows == 3260
    assert agreed / rows >= 0.97


@needs_shared
def test_most_of_gsm8k_and_math_can_be_graded_and_much_of_s1k_cannot() -> None:
    shares = {}
    for name in ("gsm8k_test", "math500", "s1k_questions_1000"):
        solutions = pl.read_parquet(SHARED / "data" / f"{name}.parquet")["solution"]
        shares[name] = sum(reference_answer(s, MARKER) is not None for s in solutions) / len(solutions)
    assert shares["gsm8k_test"] == 1.0
    assert shares["math500"] >= 0.98
    assert 0.5 <= shares["s1k_questions_1000"] <= 0.8  # proofs and essays are the rest


def test_questions_that_want_a_proof_are_not_graded() -> None:
    assert asks_for_a_proof("Prove that $\\sqrt 2$ is irrational.")
    assert asks_for_a_proof("Let G be a group. Show that it is abelian.")
    assert not asks_for_a_proof("Show that x is even and find all x.")
    assert not asks_for_a_proof("What is 2 + 2?")


def test_what_touches_no_model_imports_no_torch() -> None:
    modules = "dreamtune.scoring, dreamtune.verdict, dreamtune.statistics, dreamtune.report.render"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})
