"""Measures over several samples per question: pass@k, and the majority vote."""

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from dreamtune.formats.scores import UNDECIDED


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return for each question the chance that at least one of k samples is right: 1 − C(n − c, k) / C(n, k).

    This is the unbiased estimate of Chen et al. 2021 (Evaluating Large Language Models Trained on Code, eq. 1), as a
    product of k factors that neither overflows nor cancels.

    With one of four samples right, two samples contain it in half of the cases:

    >>> pass_at_k([4, 4], [1, 3], k=2).tolist()
    [0.5, 1.0]

    Args:
        samples: [questions], the number of samples n, at least k.
        correct: [questions], how many of them are right, c.

    Raises:
        ValueError: a question has fewer than k samples.
    """
    n, c = np.asarray(samples, float), np.asarray(correct, float)
    if (n < k).any():
        raise ValueError(f"pass@{k} needs {k} samples of every question, not {n.min():.0f}")
    tries = np.arange(k)
    none_right = np.maximum(n[..., None] - c[..., None] - tries, 0.0) / (n[..., None] - tries)  # [..., k]
    return 1.0 - none_right.prod(axis=-1)


def numbers_of_tries(samples: int) -> list[int]:
    """Return the values of k for which pass@k is reported: the powers of two up to `samples`, and `samples`.

    >>> numbers_of_tries(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | ({samples} if samples else set()))


def majority(scores: pl.DataFrame) -> pl.DataFrame:
    """Return for each gradable question whether the answer that most of its samples give is right.

    Columns: example_id, cluster, correct. `correct` is null for a question with an undecided answer, be it against its
    reference or against another answer, and False where no answer could be parsed. In a tie the class with the earliest
    answer wins: samples are exchangeable, so this is a random choice, but a repeatable one, and the question stays
    either right or wrong, as McNemar's test needs. Answers of one class that the reference tells apart ("5 m" and "5",
    where it is 5 cm) are counted separately.

    Three samples, of which the last two agree:

    >>> rows = {"example_id": [7, 7, 7], "cluster": [3, 3, 3], "sample": [0, 1, 2], "gradable": [True] * 3}
    >>> rows |= {"correct": [False, True, True], "answer_class": [0, 1, 1]}
    >>> majority(pl.DataFrame(rows)).rows()
    [(7, 3, True)]

    Args:
        scores: scores.parquet (example_id, cluster, sample, gradable, correct, answer_class).
    """
    asked = scores.filter((pl.col("example_id") >= 0) & pl.col("gradable")).sort("example_id", "sample")
    classes = (
        asked.drop_nulls("answer_class")
        .group_by("example_id", "answer_class", "correct", maintain_order=True)
        .agg(pl.len().alias("votes"), pl.first("sample"))
        .sort("example_id", "votes", "sample", descending=[False, True, False])
    )
    chosen = classes.unique("example_id", keep="first", maintain_order=True).select("example_id", "correct")
    everyone = asked.select("example_id", "cluster").unique(maintain_order=True)
    undecided = asked.filter(pl.col("correct").is_null() | (pl.col("answer_class") == UNDECIDED))["example_id"]
    decided = pl.when(~pl.col("example_id").is_in(undecided.implode())).then(pl.col("correct").fill_null(False))
    return everyone.join(chosen, on="example_id", how="left").with_columns(correct=decided)
