"""Where the answer stands in a completion and in a reference."""

import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.scoring.extraction import extract
from dreamtune.scoring.references import asks_for_a_proof, reference_answer
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"
ALL = ["boxed", "answer_tag", "final_answer", "last_number"]


@pytest.mark.parametrize(
    ("completion", "answer", "extractor"),
    [
        (r"so \boxed{1}. Then \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "boxed"),
        (r"so \boxed{1} and \boxed{\frac{1}{2}}.", r"1 and \frac{1}{2}", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{1 + \boxed{2}}", "2", "boxed"),
        (r"<answer>\boxed{8</answer>", "8", "boxed"),
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


@pytest.mark.parametrize(
    ("completion", "answer", "extractor"),
    [
        (r"so \boxed 5", "5", "boxed"),
        (r"so \boxed\frac{1}{2}.", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}", "boxed"),
        ("\\boxed{120\n</answer}", "120", "boxed"),
        ("<answer>\n\\boxed{36>", "36", "boxed"),
        ("<answer>145</answer}", "145", "answer_tag"),
        ("<answer>1</answer> no, <answer> 2", "2", "answer_tag"),
        ("<answer></answer> 7", "7", "last_number"),
        ("The final answer is: $5$.", "$5$.", "final_answer"),
        ("The final answer is $x+1$. I hope it is correct.", "$x+1$", "announced"),
        ("### Answer: INCIDENT ROOM\n### Explanation: 3 words", "INCIDENT ROOM", "announced"),
        ("**Answer:** B", "B", "announced"),
        ("so the answer is 12, because 3 times 4 is 12", "12", "announced"),
        ("Evelyn", "Evelyn", "bare"),
        ("1/2", "1/2", "bare"),
        ("I have 5 apples", "5", "last_number"),
        ("it cannot be said at all", None, None),
    ],
)
def test_default_extractors(completion: str, answer: str | None, extractor: str | None) -> None:
    assert extract(completion, ScoreConfig().extractors, MARKER) == (answer, extractor)


def test_the_last_announcement_decides_among_the_configured_kinds() -> None:
    text = r"\boxed{1} the final answer is: 2"
    assert extract(text, ["final_answer", "boxed"], MARKER) == extract(text, ["boxed", "final_answer"], MARKER)
    assert extract(text, ["boxed", "final_answer"], MARKER) == ("2", "final_answer")
    assert extract(text, ["boxed"], MARKER)[0] == "1"
    assert extract("5", ["final_answer"], MARKER) == (None, None)


def test_the_configured_order_decides_where_nothing_is_announced() -> None:
    assert extract("5 apples", ["bare", "last_number"], MARKER) == ("5 apples", "bare")
    assert extract("5 apples", ["last_number", "bare"], MARKER) == ("5", "last_number")


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
        (r"so $\boxed{2\frac{1}{4}},$ or $\boxed{\frac{9}{4}}$", r"\frac{9}{4}"),
        ("#### Lemma 8:\nlong " + "proof " * 40, None),
        ("", None),
    ],
)
def test_references_without_a_checkable_answer_are_recognised(solution: str, reference: str | None) -> None:
    assert reference_answer(solution, MARKER) == reference


def test_questions_that_want_a_proof_are_not_graded() -> None:
    assert asks_for_a_proof("Prove that $\\sqrt 2$ is irrational.")
    assert asks_for_a_proof("Let G be a group. Show that it is abelian.")
    assert not asks_for_a_proof("Show that x is even and find all x.")
    assert not asks_for_a_proof("What is 2 + 2?")
    assert asks_for_a_proof("Let f be a function which is odd. Prove that f(0) = 0.")
    assert not asks_for_a_proof("Show that one is prime. Which of 91 and 97 is it?")


@needs_shared
def test_most_of_gsm8k_and_math_can_be_graded_and_much_of_s1k_cannot() -> None:
    shares = {}
    for name in ("gsm8k_test", "math500", "s1k_questions_1000"):
        solutions = pl.read_parquet(SHARED / "data" / f"{name}.parquet")["solution"]
        shares[name] = sum(reference_answer(s, MARKER) is not None for s in solutions) / len(solutions)
    assert shares["gsm8k_test"] == 1.0
    assert shares["math500"] >= 0.98
    assert 0.5 <= shares["s1k_questions_1000"] <= 0.8  # proofs and essays are the rest


@needs_shared
@pytest.mark.parametrize("name", ["gsm8k_test", "math500"])
def test_every_reference_equals_its_own_solution(name: str) -> None:
    rows = pl.read_parquet(SHARED / "data" / f"{name}.parquet")
    assert [i for i, solution in enumerate(rows["solution"]) if not is_correct(solution, solution)] == []
    if "answer" in rows.columns:
        pairs = rows.select("solution", "answer").iter_rows()
        assert [answer for solution, answer in pairs if not is_correct(solution, answer)] == []
