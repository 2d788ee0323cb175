"""Group the answers to a question by meaning: answers that mean the same share the number of a class."""

import re
from collections.abc import Sequence
from fractions import Fraction

import polars as pl

from dreamtune.formats.scores import UNDECIDED
from dreamtune.scoring import backstop
from dreamtune.scoring.equivalence import equivalent
from dreamtune.scoring.notation import strict_form
from dreamtune.scoring.quantities import as_number

BARE_NUMBER = re.compile(r"\s*-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s*")
MAX_COMPARED = 8  # classes of its question that an answer is compared with by meaning; numbers go by value instead


def classes_of_answers(scores: pl.DataFrame, timeout_s: float) -> pl.DataFrame:
    """Return example_id, sample and answer_class: within a question, answers that mean the same share a number.

    Numbers count from 0 in the order of the samples; an answer that could not be parsed has none and does not vote.
    `UNDECIDED` marks an answer that stays undecided (see `group_by_meaning`).
    """
    questions = scores.sort("example_id", "sample").group_by("example_id", maintain_order=True)
    grouped = questions.agg("sample", "extracted")
    classes = []
    for example_id, answers in grouped.select("example_id", "extracted").iter_rows():
        backstop.note(row=f"the votes on question {example_id}", answer="", reference="")
        classes.append(group_by_meaning(answers, timeout_s))
    numbered = grouped.with_columns(answer_class=pl.Series(classes, dtype=pl.List(pl.Int32)))
    return numbered.drop("extracted").explode("sample", "answer_class")


def group_by_meaning(answers: Sequence[str | None], timeout_s: float) -> list[int | None]:
    """Return the class of each answer: bare numbers are compared by value, other answers as text, then by meaning.

    `equivalent` is asked in both directions, because it lets an answer say more than its reference ("yes, because …",
    a unit). An answer that equals no other, but stays undecided beside one, gets `UNDECIDED`, as do later answers of
    the same text: it may belong to that class or to none, so the question has no majority.

    Args:
        answers: the answers to one question, in the order of the samples; None where none could be parsed.
        timeout_s: see `equivalent`.

    >>> group_by_meaning(["0.5", r"\\frac{1}{2}", None, "7", "1/2", "7 cm", "7 m"], 1.0)
    [0, 0, None, 1, 0, 1, 1]
    """
    known: dict[Fraction | str, int] = {}
    first: list[str] = []  # of each class
    classes: list[int | None] = []
    for answer in answers:
        if answer is None:
            classes.append(None)
            continue
        number = as_number(answer) if BARE_NUMBER.fullmatch(answer) else None
        form = strict_form(answer) if number is None else number
        if form not in known:
            others = [i for i, other in enumerate(first) if number is None or not BARE_NUMBER.fullmatch(other)]
            known[form] = _class_of(answer, first, others[:MAX_COMPARED], timeout_s)
            if known[form] == len(first):
                first.append(answer)
        classes.append(known[form])
    return classes


def _class_of(answer: str, first: Sequence[str], compared: Sequence[int], timeout_s: float) -> int:
    """Return the class among `compared` whose first answer means the same, a new number if none does, or UNDECIDED."""
    new = len(first)
    for i in compared:
        same = _mean_the_same(answer, first[i], timeout_s)
        if same:
            return i
        new = UNDECIDED if same is None else new
    return new


def _mean_the_same(a: str, b: str, timeout_s: float) -> bool | None:
    """Whether `equivalent` holds in either direction; None if neither does and one is undecided."""
    found = equivalent(a, b, timeout_s)
    if found:
        return True
    back = equivalent(b, a, timeout_s)
    return None if back is None else (back or found)
