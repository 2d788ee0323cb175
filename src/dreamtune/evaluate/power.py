"""The smallest change that the data could have shown: what the test would find with 80 % probability."""

from collections.abc import Callable
from functools import cache
from math import sqrt

import numpy as np
import scipy
from numpy.typing import ArrayLike

from dreamtune.evaluate.clusters import FEWEST, Clusters
from dreamtune.evaluate.intervals import Interval, every_sign, kish_number, ratio_error

POWER = 0.8
REPETITIONS, FLIPS, STEPS = 200, 512, 12  # of the simulation in `detectable_clustered`


@cache  # a report and a study ask for the same few counts again and again, and each answer takes milliseconds
def detectable_gain(n: int, changed: int, alpha: float = 0.05, power: float = POWER) -> float | None:
    """Return the smallest gain in accuracy that McNemar's exact test finds with probability `power`; None if no gain.

    Each of n questions changes with probability ψ, and is then won with probability (ψ + gain) / 2ψ. The power is a sum
    over the number of changes: the probability of that number, times the probability that enough of them are won for
    p < alpha. ψ is the observed share of changes (add-one smoothed), but at least the gain.

    Args:
        n: questions.
        changed: how many of them changed between base and tuned.
    """
    if n < 1:
        return None
    observed = min(1.0, (changed + 1) / (n + 1))
    changes = np.arange(n + 1)
    # [changes], the largest number of losses at which p < alpha; -1 where there is none
    tolerated = scipy.stats.binom.ppf(alpha / 2, changes, 0.5) - 1

    def found(gain: float) -> float:
        share = max(observed, gain)
        lost = scipy.stats.binom.cdf(tolerated, changes, (share - gain) / (2 * share))
        return float((scipy.stats.binom.pmf(changes, n, share) * np.where(tolerated >= 0, lost, 0.0)).sum())

    return _smallest(found, 1.0, power)


def detectable_mean(differences: ArrayLike, alpha: float = 0.05, power: float = POWER) -> float | None:
    """Return the smallest mean that a sign-flip test finds with probability `power`; None if there is none.

    The power is that of Student's test (noncentral t), provided that there are enough differences for a sign flip to
    reach `alpha` at all.

    Args:
        differences: [n], tuned − base.
    """
    d = np.asarray(differences, float)
    n = len(d)
    if n < 2 or 2.0 ** (1 - n) >= alpha:
        return None
    error = ratio_error(d, np.ones(n))
    if error == 0:
        return 0.0
    critical = float(scipy.stats.t.isf(alpha / 2, n - 1))

    def found(effect: float) -> float:
        # Beyond a shift of 30, where the power is 1, scipy loses its precision.
        return float(scipy.stats.nct.sf(critical, n - 1, min(effect / error, 30.0)))

    return _smallest(found, 100 * (error * sqrt(n)), power)


def detectable_ratio(interval: Interval, numerators: ArrayLike, denominators: ArrayLike, power: float = POWER) -> float:
    """Return by how much Σ numerators / Σ denominators must fall to be found with probability `power`.

    It is found where the interval's upper limit is below 0. So it must fall by the distance to that limit, and by as
    many standard errors as an estimate exceeds the truth with probability 1 − `power`.

    Args:
        interval: `intervals.ratio_interval` of the two.
        numerators, denominators: [n], sums over clusters, at least two.
    """
    x, y = np.asarray(numerators, float), np.asarray(denominators, float)
    spread = float(scipy.stats.t.ppf(power, max(2.0, kish_number(y)) - 1)) * ratio_error(x, y)
    return interval.high - interval.value + spread


def detectable_clustered(
    changes: ArrayLike, clusters: Clusters, interval: Interval, alpha: float = 0.05, power: float = POWER
) -> float | None:
    """Return the smallest gain in accuracy found with probability `power` between clusters; None if there is none.

    It is found where the sign-flip test over clusters has p < alpha and the interval is above 0. A repetition of the
    experiment is modelled as the gain, plus the deviation of each cluster from it under a random sign. Deviations are
    divided by √(1 − the cluster's share of all questions), because a large cluster has drawn the mean towards itself.

    Args:
        changes: [n], tuned − base of each question.
        clusters: of the n questions.
        interval: `clusters.clustered_difference` of them.
    """
    if clusters.count < FEWEST:
        return None
    sizes, changed = clusters.sizes, clusters.sums(changes)
    n, rng = sizes.sum(), np.random.default_rng(0)
    deviations = (changed - changed.sum() / n * sizes) / np.sqrt(1 - sizes / n)
    repetitions = deviations[:, None] * rng.choice([-1.0, 1.0], (clusters.count, REPETITIONS))  # [G, R]
    few = 2**clusters.count <= FLIPS
    flips = every_sign(clusters.count) if few else rng.choice([-1.0, 1.0], (FLIPS, clusters.count))  # [F, G]
    flipped, moved = flips @ repetitions, (flips @ sizes)[:, None]  # [F, R], and how the gain moves each flip
    total = repetitions.sum(axis=0)  # [R]

    def found(gain: float) -> float:
        observed = total + gain * n
        p = (np.abs(flipped + gain * moved) >= np.abs(observed) * (1 - 1e-12)).mean(axis=0)
        return float(((p < alpha) & (observed > n * (interval.high - interval.low) / 2)).mean())

    return _smallest(found, 1.0, power, STEPS)


def _smallest(found: Callable[[float], float], most: float, power: float, steps: int = 30) -> float | None:
    """Return the smallest effect in (0, most] with found(effect) ≥ power, by bisection; None if `most` has less."""
    low, high = 0.0, most
    if found(high) < power:
        return None
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high
