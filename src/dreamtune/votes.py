"""Several samples of one question taken together: pass@k, and the answer most of them agree on."""

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from dreamtune import backstop
from dreamtune.grading import equivalent
from dreamtune.notation import strict_form
from dreamtune.quantities import as_number

BARE_NUMBER = re.compile(r"\s*-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s*")
UNDECIDED = -1  # class of an answer that could not be told from an earlier one within the grader's CPU time
MAX_COMPARED = 8  # an answer is compared by meaning with so many others of its question; numbers with all


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return per question the chance that of k samples at least one is right: 1 − C(n − c, k) / C(n, k).

    The unbiased estimate of Chen et al. 2021 (Evaluating Large Language Models Trained on Code, eq. 1), as a product
    of k factors that neither overflows nor cancels.

    Args:
        samples: samples of each question, n, at least k.
        correct: how many of them are right, c.
    """
    n, c = np.asarray(samples, float), np.asarray(correct, float)
    if (n < k).any():
        raise ValueError(f"pass@{k} needs {k} samples of every question, not {n.min():.0f}")
    tries = np.arange(k)
    none_right = np.maximum(n[..., None] - c[..., None] - tries, 0.0) / (n[..., None] - tries)  # [..., k]
    return 1.0 - none_right.prod(axis=-1)


def numbers_of_tries(samples: int) -> list[int]:
    """Return the k that are reported for n samples: 1, 2, 4, … and n.

    >>> numbers_of_tries(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | ({samples} if samples else set()))


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
    """Return a class for each answer: bare numbers by value, equal texts, and what `grading.equivalent` finds equal.

    That is asked both ways, because it lets an answer say more than its reference ("yes, because …", a unit). An
    answer that equals none of the others, but stays undecided beside one, gets `UNDECIDED`, as do later ones of its
    text: it may belong to either class, so the question has no majority.

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
    found = equivalent(a, b, timeout_s)
    if found:
        return True
    back = equivalent(b, a, timeout_s)
    return None if back is None else (back or found)


def majority(scores: pl.DataFrame) -> pl.DataFrame:
    """Return example_id and correct: whether the answer that most samples of a gradable question give is right.

    `correct` is null for a question with an undecided answer, be it beside its reference or beside another answer.
    A tie goes to the class whose first answer came first: samples are exchangeable, so that is a draw by lot which
    repeats itself, and a question stays right or wrong, as McNemar's test needs. Without a parsed answer it is wrong.
    Answers that the reference tells apart ("5 m" and "5", where it is 5 cm) do not vote together.

    Args:
        scores: scores.parquet (example_id, sample, gradable, correct, answer_class).
    """
    asked = scores.filter((pl.col("example_id") >= 0) & pl.col("gradable")).sort("example_id", "sample")
    classes = (
        asked.drop_nulls("answer_class")
        .group_by("example_id", "answer_class", "correct", maintain_order=True)
        .agg(pl.len().alias("votes"), pl.first("sample"))
        .sort("example_id", "votes", "sample", descending=[False, True, False])
    )
    chosen = classes.unique("example_id", keep="first", maintain_order=True).select("example_id", "correct")
    everyone = asked.select("example_id").unique(maintain_order=True)
    undecided = asked.filter(pl.col("correct").is_null() | (pl.col("answer_class") == UNDECIDED))["example_id"]
    decided = pl.when(~pl.col("example_id").is_in(undecided.implode())).then(pl.col("correct").fill_null(False))
    return everyone.join(chosen, on="example_id", how="left").with_columns(correct=decided)
