"""Questions that end in their answer or hold their reasoning are caught; options and chance are not."""

from pathlib import Path

import polars as pl
import pytest

from conftest import ROOT, SHARED, needs_shared
from dreamtune.contamination.giveaway import ENDS, HOLDS, gives_away

QUESTION = "Natalia sold clips to 48 of her friends, and then half as many. How many clips did she sell?"
REASONING = "Natalia sold 48/2 = 24 clips in May. Natalia sold 48+24 = 72 clips altogether."


def way(question: str, answer: str, reasoning: str = "") -> str:
    found: str = gives_away([question], [reasoning], [answer])[0]
    return found


@pytest.mark.parametrize(
    "end",
    [
        " 72",
        "\n72",
        "\nAnswer: 72",
        " The answer is 72.",
        " The final answer is: $72$.",
        "\n#### 72",
        r" \boxed{72}",
        " **Solution:** 72",
        "\n\n" + REASONING + " 72",
    ],
)
def test_a_question_that_ends_in_its_answer(end: str) -> None:
    assert way(QUESTION + end, "72") == ENDS
    assert way(QUESTION + end, "we add, and get\n#### 72") == ENDS
    assert way(QUESTION + end, "7") == way(QUESTION + end, "2") == "", "only the whole number is the answer"


def test_a_question_that_ends_in_a_long_answer() -> None:
    proof = "Suppose it were finite; then the product of all primes plus one has a new prime factor, which is absurd"
    assert way(f"Prove that there are infinitely many primes\n{proof}", proof) == ENDS
    assert way(f"Correct the spelling of this sentence: {proof}", proof) == "", "it is given, not answered"


@pytest.mark.parametrize("question", [f"{QUESTION}\n{REASONING}", f"Hint: {REASONING}\n{QUESTION}"])
def test_a_question_that_holds_its_reasoning(question: str) -> None:
    assert way(question, "72", REASONING) == HOLDS
    assert way(question, "72", REASONING.upper().replace(" ", "\n")) == HOLDS
    assert way(QUESTION, "72", f"The question says: {QUESTION} {REASONING} " * 3) == "", "the reasoning quotes it"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is 91 a prime? Answer yes or no.", "no"),
        ("Is 91 a prime, yes or no?", "no"),
        ("Which is larger?\n5\n7", "7"),
        ("Which is larger? A. 5 B. 7", "7"),
        ("Which one?\n(A) Paris\n(B) Rome", "Rome"),
        ("Which one? Paris, Rome", "Rome"),
        ("Is it true?\nYes.\nNo.", "No"),
        ("Solve for $x$: $2^{2x} = 256^\\frac{1}{2}$.", "2"),
        ("Take 3 from 7", "7"),
        ("Sort these numbers in ascending order:\n1 2 3", "1 2 3"),
        ("Round the number 3.7 to a multiple of 7", "7"),
        ("The train takes 17", "7"),
        ("7", "7"),
        ("What is 3 + 4?", ""),
    ],
)
def test_options_given_numbers_and_chance_are_no_giveaway(question: str, answer: str) -> None:
    assert way(question, answer) == ""


REAL = [
    (ROOT / "resources/tiny-dream/rows.parquet", "question", "deepseek_thinking_trajectory", "solution"),
    *(
        (SHARED / f"data/gsm8k_{n}.parquet", "question", "gemini_thinking_trajectory", "solution")
        for n in ("train", "test")
    ),
    (SHARED / "data/math500.parquet", "problem", "solution", "answer"),
    (SHARED / "data/s1k_101.parquet", "question", "gemini_thinking_trajectory", "solution"),
]


@needs_shared
@pytest.mark.parametrize(("file", "question", "reasoning", "answer"), REAL, ids=[file.stem for file, *_ in REAL])
def test_real_questions_raise_no_false_alarm_and_spoilt_ones_do(
    file: Path, question: str, reasoning: str, answer: str
) -> None:
    rows = pl.read_parquet(file).head(2_000)
    questions, reasonings, answers = (rows[name].fill_null("").to_list() for name in (question, reasoning, answer))
    assert set(gives_away(questions, reasonings, answers)) == {""}
    shifted = (reasonings[1:] + reasonings[:1], answers[1:] + answers[:1])
    assert set(gives_away(questions, *shifted)) == {""}, "nor do other rows' answers"
    told = [f"{q}\nAnswer: {a}" for q, a in zip(questions, answers, strict=True)]
    assert set(gives_away(told, [""] * len(told), answers)) == {ENDS}
    shown = [f"{r}\n{q}" for q, r in zip(questions, reasonings, strict=True)]
    assert (gives_away(shown, reasonings, answers) == HOLDS).mean() > 0.99
