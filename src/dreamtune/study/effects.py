"""The effect of a method, which is trained with several seeds, measured on the same questions.

The two are crossed: each seed's adapter answers each question. A mean gain varies because other questions could have
been asked and because another seed would have trained another adapter:

    SE² = SE²(seed-averaged gains over questions, or clusters of them) + SE²(seed means over seeds)

The second part is s² / S of S seeds' mean gains. The noise of single answers enters both parts, so that SE² is too
large by once that noise's share. This is kept: without it, false findings are 3 to 4 % each way where the seeds' part
is about as large as the questions', since a variance of three seeds is often too small by chance (docs/statistics.md).

Student's t has Satterthwaite's degrees of freedom (Satterthwaite 1946, Biometrics Bulletin 2:110). In them, a part of
S seeds counts (S + 1) / (S − 1) times, by which the square of such a variance exceeds the squared variance on average:
a part that is small by chance would otherwise claim many degrees of freedom. With fewer than `FEWEST_SEEDS` seeds
nothing is said about the method, only about the adapters that were trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Literal

import numpy as np
import scipy  # which loads scipy.stats, a second's work, at its first use
from numpy.typing import ArrayLike

from dreamtune.evaluate.clusters import FEWEST, Clusters
from dreamtune.evaluate.intervals import (
    Floats,
    kish_number,
    mcnemar_exact,
    paired_permutation,
    ratio_error,
    skewness_corrected,
)

FEWEST_SEEDS = 3  # for a sentence about a method: of two, the variance has one degree of freedom
RESAMPLES = 10_000
About = Literal["method", "adapters"]


@dataclass(frozen=True)
class Effect:
    """A mean gain over questions with its two standard errors, in the unit of the gains; more is better.

    Attributes:
        value: mean over questions of the mean over seeds.
        error_questions: standard error over questions, or over clusters of them.
        error_seeds: standard error over seeds; None if no side has `FEWEST_SEEDS` of them.
        df: degrees of freedom of t.
        p: two-sided, the larger of two tests' (see `method_effect`); None with fewer than `clusters.FEWEST` clusters.
        test: name of the test.
        seeds: number of seeds of each side that was trained.
        questions, clusters: how many there are.
        bound: largest possible gain: 1 for a share of right answers, infinite for nats.
    """

    value: float
    error_questions: float
    error_seeds: float | None
    df: float
    p: float | None
    test: str
    seeds: tuple[int, ...]
    questions: int
    clusters: int
    bound: float = 1.0

    @property
    def error(self) -> float:
        """Standard error of the gain, both parts together."""
        return sqrt(self.error_questions**2 + (self.error_seeds or 0.0) ** 2)

    @property
    def about(self) -> About:
        """What the effect is one of: a *method*, if each side has enough seeds, or the *adapters* that were trained."""
        return "method" if min(self.seeds) >= FEWEST_SEEDS else "adapters"

    def limits(self, alpha: float = 0.05) -> tuple[float, float]:
        """Return the confidence limits of level 1 − alpha; infinite where there is no test."""
        if self.p is None:
            return -inf, inf
        half = float(scipy.stats.t.isf(alpha / 2, self.df)) * self.error
        return max(-self.bound, self.value - half), min(self.bound, self.value + half)

    def exceeds(self, bound: float) -> float:
        """Return the one-sided p of the test that the gain is at most `bound`; 1 where there is no test."""
        if self.p is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(scipy.stats.t.sf((self.value - bound) / self.error, self.df))


def method_effect(
    gains: ArrayLike,
    clusters: Clusters | None = None,
    weights: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """Return the effect of one method against a base model that was not trained.

    p is the larger of two: that of t, and that of a test over questions which is exact for few changes: McNemar's (one
    seed, unrelated questions), else sign flips over questions or clusters; or, with weights, of the t test corrected
    for skewness (`intervals.skewness_corrected`).

    The error over questions is that of one changed question more, if there are no weights (in the spirit of Agresti
    and Min 2005, Statistics in Medicine 24:729): that none of 50 questions changed does not show that none ever would.

    Three seeds on 40 questions: 20 are won by each seed, and 6 more by the third alone.

    >>> gains = np.zeros((3, 40))
    >>> gains[:, :20], gains[2, 20:26] = 1, 1
    >>> effect = method_effect(gains)
    >>> round(effect.value, 3), round(effect.error_questions, 3), round(effect.error_seeds, 3), round(effect.df, 1)
    (0.55, 0.078, 0.05, 9.2)
    >>> method_effect(gains[:1]).about
    'adapters'

    Args:
        gains: [seeds, questions], tuned − base: each a difference of shares of right answers, in −1 to 1; or, with
            weights, of sums over tokens, such as base − tuned NLL in nats.
        clusters: of the questions; None if they are unrelated.
        weights: [questions], such as tokens: the gain is Σ gains / Σ weights.
        resamples, seed: of the sign flips.

    Raises:
        ValueError: there are no questions or no seeds, shapes do not match, or a gain is not finite.
    """
    return _effect([_sides(gains)], clusters, weights, resamples, seed)


def contrast(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Clusters | None = None,
    weights: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Effect:
    """Return by how much the first of two trained methods gains more than the second, on the same questions.

    Their seeds are independent of each other, so that the two methods' errors over seeds add up; the questions are the
    same, so that their error is one of differences. `first` is [seeds, questions] and `second` [other seeds,
    questions]; the gains may be against any common base, which cancels. Otherwise as `method_effect`.
    """
    return _effect([_sides(first), _sides(second)], clusters, weights, resamples, seed)


def _effect(
    sides: Sequence[Floats], clusters: Clusters | None, weights: ArrayLike | None, resamples: int, seed: int
) -> Effect:
    """Return the effect of one side, [seeds, questions], or of the first minus the second of two."""
    n = sides[0].shape[1]
    clusters = Clusters(np.arange(n)) if clusters is None else clusters
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    if any(side.shape[1] != n for side in sides) or len(clusters.codes) != n or len(w) != n:
        raise ValueError(f"gains, clusters and weights must be of the same {n} questions")
    averaged = sides[0].mean(axis=0) - (sides[1].mean(axis=0) if len(sides) > 1 else 0.0)  # [n]
    change, size = clusters.sums(averaged), clusters.sums(w)
    questions = ratio_error(change, size)
    if weights is None:
        questions = sqrt(questions**2 + 1 / n**2)
    several = [side.sum(axis=1) / w.sum() for side in sides if len(side) >= FEWEST_SEEDS]  # each [seeds]
    parts = [(float(means.var(ddof=1)) / len(means), len(means) - 1) for means in several]
    tested, value = clusters.count >= FEWEST, float(averaged.sum() / w.sum())
    effect = Effect(
        value,
        questions,
        sqrt(sum(part for part, _ in parts)) if parts else None,
        degrees(questions**2, max(1.0, kish_number(size) - 1), parts),
        None,
        f"no test: fewer than {FEWEST} questions or clusters",
        tuple(len(side) for side in sides),
        n,
        clusters.count,
        1.0 if weights is None else inf,
    )
    if not tested:
        return effect
    name, p = _over_questions(averaged, clusters, change, size, weights is not None, resamples, seed)
    student = 2 * float(scipy.stats.t.sf(abs(value) / effect.error, effect.df)) if effect.error else p
    test = f"t over questions{' and seeds' if parts else ''}, and {name}"
    return replace(effect, p=min(1.0, max(p, student)), test=test)


def degrees(questions: float, df: float, parts: Sequence[tuple[float, int]]) -> float:
    """Return Satterthwaite's degrees of freedom, with trainings counted as the module's docstring says.

    A variance with f degrees of freedom counts (f + 2) / f times: (S + 1) / (S − 1) for S seeds.

    >>> round(degrees(1.0, 100.0, [(1.0, 2)]), 1), round(degrees(1.0, 100.0, [(0.1, 2)]), 1)
    (4.5, 48.0)

    Args:
        questions, df: squared error over questions, with its degrees of freedom.
        parts: squared error over trainings of each side, with its degrees of freedom.
    """
    counted = [(questions, df), *(((f + 2) / f * part, f) for part, f in parts)]
    squares = sum(part**2 / freedom for part, freedom in counted)
    return sum(part for part, _ in counted) ** 2 / squares if squares else df


def _over_questions(
    averaged: Floats, clusters: Clusters, change: Floats, size: Floats, weighted: bool, resamples: int, seed: int
) -> tuple[str, float]:
    """Return name and p of the test over questions alone."""
    if weighted:
        return "corrected for skewness", skewness_corrected(change, size)
    if clusters.single and np.isin(averaged, (-1.0, 0.0, 1.0)).all():
        return "exact McNemar", mcnemar_exact(int((averaged < 0).sum()), int((averaged > 0).sum()))
    unit = "questions" if clusters.single else "clusters"
    return f"sign flips over {unit}", paired_permutation(change, resamples, seed)


def _sides(gains: ArrayLike) -> Floats:
    """Return gains as [seeds, questions]; a ValueError if they are not, or not finite."""
    x = np.asarray(gains, float)
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise ValueError(f"finite gains [seeds, questions] are needed, not {list(x.shape)}")
    return x
