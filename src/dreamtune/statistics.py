"""Intervals and tests the verdict rests on. Every draw comes from a seed, so a report can be made again bit for bit."""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm
from scipy.stats import t as student_t

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # resampled values held at a time: 32 MB
EXACT_SIGNS = 12  # up to so many non-zero differences, all sign flips are enumerated
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits; `n` is the number of independent examples behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, alpha: float = 0.05) -> Interval:
    """Return a share with Wilson's score interval (Wilson 1927), which stays inside [0, 1] and works at 0 and n."""
    _need(n >= 1, f"a share of {n} trials does not exist")
    z = float(norm.isf(alpha / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)


def mcnemar_exact(lost: int, won: int) -> float:
    """Return the exact two-sided p of McNemar's test: of the changed answers, are half won and half lost?"""
    changed = lost + won
    return min(1.0, 2 * float(binom.cdf(min(lost, won), changed, 0.5))) if changed else 1.0


def paired_difference(base: ArrayLike, tuned: ArrayLike, alpha: float = 0.05) -> Interval:
    """Return tuned − base accuracy on the same questions with Newcombe's paired interval.

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
    phi = cross / sqrt(margins) if margins else 0.0
    down, up = first.value - first.low, second.high - second.value
    low = sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    down, up = second.value - second.low, first.high - first.value
    high = sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    gain = first.value - second.value
    return Interval(gain, max(-1.0, gain - low), min(1.0, gain + high), n)


def paired_permutation(differences: ArrayLike, resamples: int, seed: int) -> float:
    """Return the two-sided p that the mean of paired differences is 0, by flipping their signs.

    With few non-zero differences all flips are enumerated; otherwise `resamples` are drawn, and the observed one is
    counted among them, so that p is valid and never 0 (Phipson and Smyth 2010).
    """
    values = np.asarray(differences, float)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    observed = abs(values.sum()) * (1 - 1e-12)
    if len(values) <= EXACT_SIGNS:
        flips = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        return float((np.abs((1 - 2 * flips) @ values) >= observed).mean())
    rng, hits = np.random.default_rng(seed), 0
    for size in _chunks(resamples, len(values)):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (size, len(values)), dtype=np.int8)
        hits += int((np.abs(signs @ values) >= observed).sum())
    return (hits + 1) / (resamples + 1)


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: int, alpha: float = 0.05
) -> Interval:
    """Return Σ numerators / Σ denominators with a studentised bootstrap interval over examples.

    Plain percentiles are too short for small, skewed samples; dividing each resample's error by its own standard
    error (bootstrap-t, Efron and Tibshirani 1993, ch. 12) mends skewness, but is too short for symmetric heavy
    tails, where Student's t is not: each limit is the outer of the two (coverage in tests/test_statistics.py).
    One example, or equal ones, give what there is: an infinite interval for n = 1, a point where nothing varies.
    """
    x, y = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(x)
    _need(n >= 1 and len(y) == n and y.sum() > 0, f"a ratio of {n} examples to {y.sum()} does not exist")
    value, error = (float(v[0]) for v in _ratio_and_error(x[None], y[None]))
    if n == 1:
        return Interval(value, -inf, inf, 1)
    if error <= 1e-12 * max(1.0, abs(value)):
        return Interval(value, value, value, n)
    rng, scores = np.random.default_rng(seed), []
    for size in _chunks(resamples, n):
        pick = rng.integers(0, n, (size, n))
        ratios, errors = _ratio_and_error(x[pick], y[pick])
        usable = errors > 1e-3 * error  # a resample of one example alone has no error to divide by
        scores.append((ratios[usable] - value) / errors[usable])
    low, high = np.quantile(np.concatenate(scores), [alpha / 2, 1 - alpha / 2])
    normal = float(student_t.isf(alpha / 2, n - 1))
    return Interval(value, value - max(float(high), normal) * error, value + max(-float(low), normal) * error, n)


def mean_interval(values: ArrayLike, resamples: int, seed: int, alpha: float = 0.05) -> Interval:
    """Return the mean with a studentised bootstrap interval over examples."""
    x = np.asarray(values, float)
    return ratio_interval(x, np.ones_like(x), resamples, seed, alpha)


def detectable_gain(n: int, changed: int, alpha: float = 0.05, power: float = POWER) -> float | None:
    """Return the smallest gain in accuracy that McNemar's test would find with `power`, or None if none would be.

    Connor 1987: n = (z_a √ψ + z_b √(ψ − δ²))² / δ² with ψ the share of answers that change, solved for δ. ψ is the
    observed share (add-one smoothed), or δ itself where that is more: a gain needs at least as many changes.
    """
    if n < 1:
        return None
    observed = min(1.0, (changed + 1) / (n + 1))
    z_alpha, z_power = float(norm.isf(alpha / 2)), float(norm.isf(1 - power))

    def enough(gain: float) -> bool:
        share = max(observed, gain)
        return (z_alpha * sqrt(share) + z_power * sqrt(max(share - gain * gain, 0.0))) ** 2 <= n * gain * gain

    low, high = 0.0, 1.0
    if not enough(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_mean(differences: ArrayLike, alpha: float = 0.05, power: float = POWER) -> float | None:
    """Return the smallest mean of paired differences a two-sided test would find with `power` (normal theory)."""
    values = np.asarray(differences, float)
    if len(values) < 2:
        return None
    return float((norm.isf(alpha / 2) + norm.isf(1 - power)) * values.std(ddof=1) / sqrt(len(values)))


def _ratio_and_error(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the ratio of each row of x to y [R, n] and its linearised standard error, both [R]."""
    n = x.shape[1]
    ratio = x.sum(1) / y.sum(1)
    residuals = (x - ratio[:, None] * y) / y.mean(1)[:, None]
    return ratio, np.sqrt((residuals**2).sum(1) / (n * max(n - 1, 1)))


def _chunks(resamples: int, n: int) -> list[int]:
    size = max(1, min(resamples, CHUNK // n))
    return [size] * (resamples // size) + ([resamples % size] if resamples % size else [])


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"not enough data: {message}")
