"""A changed word, swapped sentences, another notation hide no copy; another name or number makes a new question."""

import numpy as np
import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.contamination.copies import MOST, Copies, differ, final
from dreamtune.contamination.ngrams import MAX_PAIRS
from dreamtune.contamination.templates import Templates
from dreamtune.contamination.words import read_words

ASKED = (
    "Janet sells 1,200 eggs a year at the market. She keeps three eggs for herself each day, and Toulouse buys the "
    "rest. How many dollars does she earn in a year at $2 per egg?"
)


def compare(train: list[tuple[str, str]], asked: list[tuple[str, str]]) -> tuple[Copies, np.ndarray]:
    """Compare (question, answer) rows; return what was found, and which training rows share a template."""
    templates = Templates()
    mine, theirs = (templates.add(read_words([question for question, _ in rows])) for rows in (train, asked))
    templates.finish()
    copies = Copies(
        np.arange(len(asked)),
        templates.identities[theirs],
        templates.identities[mine],
        lambda ids: {i: asked[i][0] for i in ids},
        lambda ids: {i: asked[i][1] for i in ids},
    )
    questions, answers = map(list, zip(*train, strict=True))
    copies.look_up(templates.identities[mine], questions, answers, np.arange(len(train)))
    return copies, np.isin(templates.numbers[mine], templates.numbers[theirs])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keeps", "saves"),
        ("1,200", "1200"),
        ("three", "3"),
        ("$2", "$2.00"),
        ("a year at the market", "at the market a year"),
        ("market.", "market!"),
        ("Janet", "JANET"),
        (ASKED.split(". ")[0] + ". ", ""),
        ("Janet sells", "Solve this problem. Janet sells"),
    ],
)
def test_an_edit_of_the_text_hides_no_copy(old: str, new: str) -> None:
    copy = ASKED.replace(old, new)
    if not new:  # sentences swapped
        first, rest = ASKED.split(". ", 1)
        second, last = rest.split(". ", 1)
        copy = f"{second}. {first}. {last}"
    assert copy != ASKED
    copies, same_template = compare([("Why?", "so"), (copy, "2394")], [("What?", "x"), (ASKED, "#### 2,394")])
    assert (copies.train, copies.asked) == ([1], [1]) and same_template.tolist() == [False, True]
    assert copies.of(np.array([0, 1])) == [None, 1]
    [shown] = copies.shown("heldout")
    assert (shown["train"], shown["heldout"], shown["train_question"]) == (1, 1, copy)


@pytest.mark.parametrize(("old", "new"), [("Janet", "Martha"), ("1,200", "1,300"), ("three", "four"), ("$2", "$2.50")])
def test_another_name_or_number_is_a_new_question_of_the_same_template(old: str, new: str) -> None:
    copies, same_template = compare([(ASKED.replace(old, new), "2394")], [(ASKED, "2394")])
    assert copies.train == [] and same_template.tolist() == [True]


def test_numbers_and_names_in_other_places_make_another_question() -> None:
    asked = "Sam has 4 pens and Tom gives him 5. 3 friends share them, then each gets 3 more. How many each?"
    for old, new in (("4", "5"), ("Sam", "Tom")):
        swapped = asked.replace(old, "#").replace(new, old).replace("#", new)
        copies, same_template = compare([(swapped, "6")], [(asked, "6")])
        assert copies.train == [] and same_template.tolist() == [True]


def test_the_same_words_with_another_answer_are_reported_apart() -> None:
    train = [(ASKED.replace("1,200", "1200"), "17"), (ASKED, "we find \\boxed{2394}")]
    copies, _ = compare([*train, (ASKED.replace("keeps", "breaks"), "17")], [(ASKED, "2394")])
    assert copies.train == [1] and copies.other_answer == [[0, 0]]
    assert copies.counts("heldout_rows") == {
        "train_rows": 1,
        "heldout_rows": 1,
        "other_answer": 1,
        "other_answer_examples": [[0, 0]],
    }


def test_without_names_and_numbers_more_of_the_words_must_agree() -> None:
    """A whale and a trout make two questions, though all other words agree, and the answers do by chance."""
    asked = "is a whale a kind of large mammal that lives in water"
    copies, same_template = compare([(asked.replace("whale", "trout"), "yes")], [(asked, "yes")])
    assert copies.train == [] and same_template.tolist() == [True]


def test_the_pairs_that_are_shown_and_compared_are_bounded() -> None:
    copies, _ = compare([(ASKED, "1")] * (MAX_PAIRS + 20), [(ASKED, "1")])
    assert len(copies.train) == MAX_PAIRS + 20 and len(copies.shown("x")) == MAX_PAIRS
    copies, _ = compare([(ASKED, "1")], [(ASKED, "1")] * (MOST + 5))
    assert copies.asked == list(range(MOST))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("72", "so 48 + 24 = 72\n#### 72", False),
        ("1,000", "1000.0", False),
        ("\\frac{1}{12}", "1 / 12", False),
        ("The final answer is: $\\boxed{(3,4]}$", "(3,4]", False),
        ("72", "73", True),
        ("-72", "72", True),
        ("yes", "No.", True),
        ("A long proof that shows nothing short at its end, however hard one looks for it there.", "42", False),
    ],
)
def test_answers_differ_only_where_both_are_seen(one: str, other: str, expected: bool) -> None:
    assert differ(one, other) is differ(other, one) is expected


def test_the_last_box_counts_with_its_braces() -> None:
    assert final(r"\boxed{1} and then \boxed{\frac{2}{3}}.") == r"\frac{2}{3}" and final(r"broken \boxed{1") is not None


@needs_shared
def test_what_real_rows_copy() -> None:
    """All were read: the 18 copies are the same problem; in three more pairs of one text an answer is wrong."""
    s1k = pl.read_parquet(SHARED / "data/s1k_questions_1000.parquet").select("question", "solution").rows()
    math = pl.read_parquet(SHARED / "data/math500.parquet").select("problem", "answer").rows()
    copies, _ = compare(s1k, math)
    assert list(zip(copies.train, copies.asked, strict=True)) == [(81, 80), (124, 285), (181, 103)]
    assert copies.other_answer == []
    within, _ = compare(s1k, s1k)
    pairs = [(a, b) for a, b in zip(within.train, within.asked, strict=True) if a < b]
    assert pairs == [
        *((71, 125), (83, 286), (116, 320), (185, 660), (187, 953), (193, 434), (278, 483), (278, 939), (354, 409)),
        *((372, 687), (483, 939), (488, 696), (562, 839), (773, 942), (810, 877)),
    ]
    assert [pair for pair in within.other_answer if pair[0] < pair[1]] == [[481, 881], [486, 751], [608, 888]]


@needs_shared
def test_gsm8k_copies_nothing_and_shares_six_templates() -> None:
    train, test = (
        pl.read_parquet(SHARED / f"data/gsm8k_{name}.parquet").select("question", "solution").rows()
        for name in ("train", "test")
    )
    copies, known = compare(test, train)
    assert copies.train == [] and copies.other_answer == [] and int(known.sum()) == 6
