"""The intervals and tests behind the verdict.

All random draws come from a seed, so that one machine makes the same report again, bit for bit. How often each
interval and test is right was measured: docs/statistics.md. Functions raise ValueError ("not enough data: …") where a
number does not exist.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt

import numpy as np
import scipy  # which loads scipy.stats, a second's work, at its first use
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # resampled values held at a time: 32 MB
EXACT_SIGNS = 12  # with at most this many non-zero differences, all sign flips are enumerated


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits.

    Attributes:
        n: the number of examples behind it.
        effective_n: how many unrelated examples say as much (see `clusters.effective_number`); None for n.
    """

    value: float
    low: float
    high: float
    n: int
    effective_n: float | None = None


def wilson(successes: float, n: int, alpha: float = 0.05) -> Interval:
    """Return a share with Wilson's score interval (Wilson 1927), which stays inside [0, 1] and works at 0 and n.

    >>> wilson(0, 10).value, round(wilson(0, 10).high, 3)
    (0.0, 0.278)
    """
    _need(n >= 1, f"a share of {n} trials does not exist")
    share = successes / n
    return Interval(share, *wilson_limits(share, n, alpha), n)


def question_share(values: ArrayLike, samples: int, alpha: float = 0.05) -> Interval:
    """Return the mean over questions of values in [0, 1], each a mean over `samples` answers.

    Wilson's limits for the effective number of independent answers (Korn and Graubard 1998, Survey Methodology
    24:193): share · (1 − share) / the variance of the mean over questions, times (z / t)², t with questions − 1
    degrees of freedom. That effective number is at least the number of questions, also where nothing varies: a model
    that gets none of 50 questions right has not shown that it never will.

    Args:
        values: [questions] in 0 to 1.
        samples: answers per question.
        alpha: 1 − the level of the interval.
    """
    x = np.asarray(values, float)
    n = len(x)
    _need(n >= 1, "a share of 0 questions does not exist")
    share = min(1.0, max(0.0, float(x.mean())))
    variance = float(x.var(ddof=1)) / n if n > 1 else 0.0
    effective = min(n * samples, max(n, share * (1 - share) / variance)) if variance > 0 else n
    if n > 1:
        effective *= (normal_quantile(alpha / 2) / student_quantile(alpha / 2, n - 1)) ** 2
    return Interval(share, *wilson_limits(share, effective, alpha), n)


@lru_cache(maxsize=256)
def normal_quantile(tail: float) -> float:
    """Return the value that a standard normal variable exceeds with probability `tail`; scipy takes 50 µs for it."""
    return float(scipy.stats.norm.isf(tail))


@lru_cache(maxsize=256)
def student_quantile(tail: float, degrees: float) -> float:
    """Return the value that Student's t with these degrees of freedom exceeds with probability `tail`."""
    return float(scipy.stats.t.isf(tail, degrees))


def wilson_limits(share: float, n: float, alpha: float) -> tuple[float, float]:
    """Return Wilson's limits of a share of n answers; n may be an effective number, such as 17.3."""
    z = normal_quantile(alpha / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mcnemar_exact(lost: int, won: int) -> float:
    """Return the exact two-sided p of McNemar's test that a changed answer is as likely lost as won.

    One lost and nine won of ten changes: 2 · (1 + 10) / 2^10.

    >>> mcnemar_exact(lost=1, won=9)
    0.021484375
    """
    changed = lost + won
    return min(1.0, 2 * float(scipy.stats.binom.cdf(min(lost, won), changed, 0.5))) if changed else 1.0


def paired_difference(base: ArrayLike, tuned: ArrayLike, alpha: float = 0.05) -> Interval:
    """Return tuned − base accuracy on the same questions, [questions] boolean each, with Newcombe's paired interval.

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: Wilson limits of both shares, squared and added with
    the phi coefficient of the 2×2 table, which is corrected for continuity where it is positive.
    """
    x, y = np.asarray(base, bool), np.asarray(tuned, bool)
    n = len(x)
    _need(n >= 1 and len(y) == n, f"paired samples of one length are needed, not {n} and {len(y)}")
    first, second = wilson(int(y.sum()), n, alpha), wilson(int(x.sum()), n, alpha)
    both, neither = int((x & y).sum()), int((~x & ~y).sum())
    won, lost = int((~x & y).sum()), int((x & ~y).sum())
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    cross = float(both * neither - won * lost)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    return difference(second, first, cross / sqrt(margins) if margins else 0.0)


def question_difference(base: ArrayLike, tuned: ArrayLike, samples: int, alpha: float = 0.05) -> Interval:
    """Return tuned − base on the same questions, [questions] each; a value is the mean over `samples` answers.

    Computed like `paired_difference`, with the limits of `question_share` and the correlation of the questions' means:
    the general form of Newcombe's method (Zou and Donner 2008, Statistics in Medicine 27:1693).
    """
    x, y = np.asarray(base, float), np.asarray(tuned, float)
    _need(len(x) == len(y), f"paired samples of one length are needed, not {len(x)} and {len(y)}")
    varies = len(x) > 1 and x.std() > 0 and y.std() > 0
    correlation = float(np.corrcoef(x, y)[0, 1]) if varies else 0.0
    return difference(question_share(x, samples, alpha), question_share(y, samples, alpha), correlation)


def difference(base: Interval, tuned: Interval, correlation: float) -> Interval:
    """Return tuned − base by Newcombe's method: distances to the limits, a and b, add up to √(a² − 2·r·a·b + b²)."""

    def distance(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    gain = tuned.value - base.value
    low = gain - distance(tuned.value - tuned.low, base.high - base.value)
    high = gain + distance(base.value - base.low, tuned.high - tuned.value)
    return Interval(gain, max(-1.0, low), min(1.0, high), tuned.n)


def paired_permutation(differences: ArrayLike, resamples: int, seed: int) -> float:
    """Return the two-sided p of the sign-flip test that the mean of paired differences is 0.

    With few non-zero differences all sign flips are enumerated; otherwise `resamples` are drawn, and the observed signs
    are counted among them, so that p is valid and never 0 (Phipson and Smyth 2010).

    Of the four sign flips of (1, 2), only the observed one and its opposite have a mean as far from 0:

    >>> paired_permutation([1.0, 2.0], resamples=0, seed=0)
    0.5
    """
    values = np.asarray(differences, float)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    observed = abs(values.sum()) * (1 - 1e-12)
    if len(values) <= EXACT_SIGNS:
        return float((np.abs(every_sign(len(values)) @ values) >= observed).mean())
    rng, hits = np.random.default_rng(seed), 0
    for size in _chunks(resamples, len(values)):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (size, len(values)), dtype=np.int8)
        hits += int((np.abs(signs @ values) >= observed).sum())
    return (hits + 1) / (resamples + 1)


def every_sign(n: int) -> NDArray[np.int64]:
    """Return all 2^n sign flips of n differences, [2^n, n] of 1 and −1."""
    return 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def skewness_corrected(numerators: ArrayLike, denominators: ArrayLike) -> float:
    """Return the two-sided p of the test that Σ numerators / Σ denominators is 0 in truth, allowing for skewness.

    A t test, like one by sign flips, takes differences for symmetric. Where most rows gain a little and few lose much,
    a sample may lack the few, and its t is then too large. Hall 1992 (Journal of the Royal Statistical Society B
    54:221) maps t to t + s t² / 3 + s² t³ / 27 + s / 6, which is closer to symmetric; s is the skewness over √n, here
    Σ z³ / (Σ z²)^1.5 of the residuals z. The correction can only raise p, because an estimated skewness is uncertain.
    The degrees of freedom are those of `ratio_interval`, whose t statistic this is.

    Of 30 rows 28 gain 1 and two lose 4 and 5. A t test gives p = 0.019, as if a loss of 9 were less likely than that:

    >>> round(skewness_corrected([1] * 28 + [-4, -5], [1] * 30), 2)
    0.21
    """
    x, y = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(x)
    _need(n >= 2 and len(y) == n and y.sum() > 0, f"a test of {n} examples to {y.sum()} does not exist")
    residuals = x - x.sum() / y.sum() * y
    squares = float((residuals**2).sum())
    if squares <= 1e-24 * max(1.0, float((x**2).sum())):
        return 1.0 if x.sum() == 0 else 0.0
    t = float(x.sum()) / sqrt(squares * n / (n - 1))
    skew = float((residuals**3).sum()) / squares**1.5
    corrected = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    nearest = min(abs(t), corrected if t >= 0 else -corrected)
    return min(1.0, 2 * float(scipy.stats.t.sf(nearest, max(2.0, kish_number(y)) - 1)))


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: int, alpha: float = 0.05
) -> Interval:
    """Return Σ numerators / Σ denominators with a studentised bootstrap interval over examples.

    Dividing each resample's error by its own standard error (bootstrap-t, Efron and Tibshirani 1993, ch. 12) mends
    skewness but is too short for symmetric heavy tails, where Student's t is not: each limit is the outer of the two.
    Examples of unequal size count for fewer than there are: the degrees of freedom are those of the effective number
    (Σy)² / Σy² (Kish 1965), and the bootstrap's tails are those that the t quantile corresponds to (Hesterberg 2015,
    The American Statistician 69:371, section 5.2), without which it is too short by √((n − 1) / n).
    The interval is infinite for n = 1, and a point where nothing varies.
    """
    x, y = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(x)
    _need(n >= 1 and len(y) == n and y.sum() > 0, f"a ratio of {n} examples to {y.sum()} does not exist")
    value = float(x.sum() / y.sum())
    error = ratio_error(x, y)
    if n == 1:
        return Interval(value, -inf, inf, 1)
    if error <= 1e-12 * max(1.0, abs(value)):
        return Interval(value, value, value, n)
    effective = max(2.0, kish_number(y))
    quantile = student_quantile(alpha / 2, effective - 1)
    tail = float(scipy.stats.norm.sf(quantile * sqrt(effective / (effective - 1))))
    errors = _studentised_errors(x - value * y, y, resamples, seed, error)
    low, high = np.quantile(errors, [tail, 1 - tail], method="weibull")
    return Interval(value, value - max(float(high), quantile) * error, value + max(-float(low), quantile) * error, n)


def kish_number(sizes: Floats) -> float:
    """Return the effective number (Σ size)² / Σ size² of examples that count by their size [n] (Kish 1965).

    >>> kish_number(np.array([5.0, 5.0])), round(kish_number(np.array([9.0, 1.0])), 2)
    (2.0, 1.22)
    """
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def ratio_error(x: Floats, y: Floats) -> float:
    """Return the linearised standard error of Σx / Σy over examples [n]."""
    n = len(x)
    residuals = (x - x.sum() / y.sum() * y) / y.mean()
    return float(np.sqrt((residuals**2).sum() / (n * max(n - 1, 1))))


def _studentised_errors(x: Floats, y: Floats, resamples: int, seed: int, error: float) -> Floats:
    """Return each resample's ratio Σx / Σy divided by that resample's standard error, [resamples].

    x [n] is centred: Σx / Σy of all examples is 0. A resample is a row of counts [n], and its ratio and error follow
    from its sums of x, y, x², xy and y². Resamples without a usable error are left out.
    """
    n, found = len(x), []
    moments = np.stack([x, y, x * x, x * y, y * y], axis=1)  # [n, 5]
    rng = np.random.default_rng(seed)
    for size in _chunks(resamples, n):
        pick = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(pick.ravel(), minlength=size * n).reshape(size, n).astype(float)
        sum_x, sum_y, sum_xx, sum_xy, sum_yy = (counts @ moments).T  # each [size]
        ratios = sum_x / sum_y
        squares = np.maximum(sum_xx - 2 * ratios * sum_xy + ratios**2 * sum_yy, 0.0)
        errors = np.sqrt(squares / (n * (n - 1))) * n / sum_y
        usable = errors > 1e-3 * error  # a resample of a single example has no error
        found.append(ratios[usable] / errors[usable])
    return np.concatenate(found)


def _chunks(resamples: int, n: int) -> list[int]:
    """Split `resamples` so that a chunk of them, over n examples, has at most CHUNK values.

    >>> _chunks(5, CHUNK // 2)
    [2, 2, 1]
    """
    size = max(1, min(resamples, CHUNK // n))
    return [size] * (resamples // size) + ([resamples % size] if resamples % size else [])


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"not enough data: {message}")
