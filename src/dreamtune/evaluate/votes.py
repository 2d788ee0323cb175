"""Several samples of one question taken together: pass@k, and the answer most of them agree on."""

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from dreamtune.formats.scores import UNDECIDED


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
