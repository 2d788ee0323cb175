"""Shares and gains of questions that are not independent, because many are made from one template.

Such questions are right or wrong together, so that ten of one template say hardly more than one. What is independent
are the *clusters*, groups of similar questions: tests and intervals compare the sums over clusters.

**Effective n.** n questions in clusters say as much as `effective_n` unrelated ones: n over the design effect, which is
the variance of the estimate between clusters over its variance if all questions were unrelated (Kish 1965, Survey
Sampling, section 8.2). It lies between the number of clusters, each counted by its size, and n.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from dreamtune.evaluate.intervals import Floats, Interval, difference, kish_number, ratio_error, wilson_limits

FEWEST = 6  # clusters for a test: the sign flips of fewer cannot reach p < 0.05, as 2 / 2^5 = 0.0625


@dataclass(frozen=True)
class Clusters:
    """Which cluster each of n questions belongs to.

    >>> clusters = Clusters.of([4, 9, 4])
    >>> clusters.count, clusters.sums([0.5, 1.0, 0.25]).tolist(), clusters.single
    (2, [0.75, 1.0], False)

    Attributes:
        codes: [n] number of each question's cluster, from 0.
    """

    codes: NDArray[np.intp]

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Clusters":
        """Return the clusters of questions from any numbers that questions of one cluster share, [n]."""
        return cls(np.unique(np.asarray(list(numbers), np.int64), return_inverse=True)[1])

    @cached_property
    def sizes(self) -> Floats:
        """Questions of each cluster, [clusters]."""
        return self.sums(np.ones(len(self.codes)))

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @property
    def single(self) -> bool:
        """Whether each question is a cluster by itself."""
        return self.count == len(self.codes)

    def sums(self, values: ArrayLike) -> Floats:
        """Return the sum of the values [n] over each cluster, [clusters]."""
        return np.bincount(self.codes, np.asarray(values, float)).astype(float)


def effective_number(values: ArrayLike, clusters: Clusters, weights: ArrayLike | None = None) -> float:
    """Return the effective n of Σ values / Σ weights over clustered questions (see the module's docstring).

    Twelve questions of four templates, of which two are always right and two always wrong: they say as much as four.
    Where each template is right in half of its questions, they would say more than twelve, and count as twelve:

    >>> templates = Clusters.of([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    >>> effective_number([1] * 6 + [0] * 6, templates)
    4.0
    >>> effective_number([0, 1, 0] + [1, 0, 1] + [0, 1, 0] + [1, 0, 1], templates)
    12.0

    Args:
        values: [n], such as right or wrong, or the change of each question.
        clusters: of the n questions.
        weights: [n], such as tokens; 1 by default.
    """
    x = np.asarray(values, float)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    size = clusters.sums(w)
    fewest, between = kish_number(size), ratio_error(clusters.sums(x), size)
    if clusters.single:
        return float(len(x))
    if between == 0:  # nothing varies, which unrelated questions show as little as similar ones
        return fewest if ratio_error(x, w) == 0 else float(len(x))
    return min(float(len(x)), max(fewest, len(x) * (ratio_error(x, w) / between) ** 2))


def clustered_share(values: ArrayLike, clusters: Clusters, samples: int, alpha: float = 0.05) -> Interval:
    """Return the mean of values in [0, 1] over clustered questions, each a mean over `samples` answers.

    Wilson's limits for the effective number of answers, as in `intervals.question_share`, with clusters in the place of
    questions: at least the number of clusters by size, and its t has one degree of freedom less than that number.
    One cluster alone says nothing about others: its limits are 0 and 1.
    """
    x = np.asarray(values, float)
    share, fewest = min(1.0, max(0.0, float(x.mean()))), kish_number(clusters.sizes)
    if clusters.count == 1:
        return Interval(share, 0.0, 1.0, len(x), 1.0)
    error = ratio_error(clusters.sums(x), clusters.sizes)
    answers = min(len(x) * samples, max(fewest, share * (1 - share) / error**2)) if error > 0 else fewest
    normal, student = scipy.stats.norm.isf(alpha / 2), scipy.stats.t.isf(alpha / 2, max(1.0, fewest - 1))
    limits = wilson_limits(share, answers * float(normal / student) ** 2, alpha)
    return Interval(share, *limits, len(x), effective_number(x, clusters))


def clustered_difference(
    base: ArrayLike, tuned: ArrayLike, clusters: Clusters, samples: int, alpha: float = 0.05
) -> Interval:
    """Return tuned − base on the same clustered questions, [n] each; a value is the mean over `samples` answers.

    Computed like `intervals.question_difference`, with the limits of `clustered_share` and the correlation between base
    and tuned of the clusters' sums.
    """
    x, y = np.asarray(base, float), np.asarray(tuned, float)
    a, b = (clusters.sums(values - values.mean()) for values in (x, y))  # deviations of the clusters, [clusters]
    spread = sqrt(float((a**2).sum() * (b**2).sum()))
    correlation = float((a * b).sum()) / spread if spread > 0 else 0.0
    first, second = (clustered_share(values, clusters, samples, alpha) for values in (x, y))
    return replace(difference(first, second, correlation), effective_n=effective_number(y - x, clusters))
