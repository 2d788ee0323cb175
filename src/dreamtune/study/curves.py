"""A learning curve: how a measure changes with the size of the training data, or with the number of steps.

All is per doubling, so in u = log₂ size, and in the measure's own unit: points of accuracy, or nats. *The trend* is the
slope of the straight line through the runs: the mean change per doubling within what was tried. *The forecast* for
twice the largest size comes from a parabola in u: a line takes no notice that the curve flattens, and promised too much
in nearly every study of a curve that does (docs/statistics.md). A parabola's forecast is less certain, which it says.

Both have, like a method with seeds (`effects`), errors of two kinds: over the questions, which all runs share, and over
the runs, from their scatter about the fit. The forecast is made only under a rule that is fixed beforehand: sizes and
runs enough (`refusal`), the parabola through all but the largest size did not foretell another largest, and its limits
are at most `WIDEST` apart.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import scipy  # which loads scipy.stats, a second's work, at its first use
from numpy.typing import ArrayLike

from dreamtune.evaluate.clusters import FEWEST, Clusters
from dreamtune.evaluate.intervals import Floats, kish_number, ratio_error
from dreamtune.study.effects import degrees

FEWEST_SIZES, FEWEST_RUNS = 4, 6
WIDEST = 0.2  # between a forecast's limits, of the measure at the largest size or of 1, whichever is larger
LINE, PARABOLA = 1, 2  # degrees of the fitted polynomial in u


@dataclass(frozen=True)
class Change:
    """A change of the measure with its confidence limits and two standard errors, in the measure's unit."""

    value: float
    low: float
    high: float
    error_questions: float
    error_runs: float
    df: float


@dataclass(frozen=True)
class Curve:
    """What a learning curve shows.

    Attributes:
        sizes, means: of each run, in the given order.
        per_doubling: mean change per doubling within the tried sizes; None with fewer than 3 runs or 2 sizes.
        next_doubling: expected change from the largest size to twice that; None where `refusal` says why not.
        refusal: why nothing is foretold, in one line; None if there is a forecast.
    """

    sizes: tuple[float, ...]
    means: tuple[float, ...]
    per_doubling: Change | None
    next_doubling: Change | None
    refusal: str | None


def fit_curve(
    sizes: ArrayLike,
    values: ArrayLike,
    clusters: Clusters | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Curve:
    """Fit the learning curve of one method.

    Four runs whose accuracy rises by 10 points per doubling, without noise between runs:

    >>> right = np.arange(100) < np.array([[20], [30], [40], [50]])
    >>> curve = fit_curve([125, 250, 500, 1000], right)
    >>> round(curve.per_doubling.value, 3), curve.refusal
    (0.1, 'nothing is foretold from 4 runs; 6 are needed')

    Args:
        sizes: [runs], training rows or steps; seeds of one size are runs with the same size. Each run is a training of
            its own: states of one training at several steps are not.
        values: [runs, questions], shares of right answers in 0 to 1; or, with weights, the NLL in nats.
        clusters: of the questions; None if they are unrelated.
        weights: [questions], tokens: the measure is Σ values / Σ weights.
        alpha: 1 − level of the limits.

    Raises:
        ValueError: shapes do not match, a size is not positive, or a value is not finite.
    """
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    if y.ndim != 2 or x.shape != y.shape[:1] or not (np.isfinite(y).all() and (x > 0).all()):
        raise ValueError(f"positive sizes [runs] and finite values [runs, questions] are needed, not {list(y.shape)}")
    n = y.shape[1]
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    runs = _Runs(np.log2(x), y, w, Clusters(np.arange(n)) if clusters is None else clusters, alpha)
    why = refusal(x, runs.clusters.count) or runs.contradicted()
    forecast = None if why else runs.forecast()
    if forecast and forecast.high - forecast.low > (widest := WIDEST * max(1.0, runs.means[x == x.max()].mean())):
        why, forecast = (
            f"nothing is foretold: its limits would be {forecast.high - forecast.low:.2g} apart, {widest:.2g} at most",
            None,
        )
    shown = len(x) > 2 and len(set(x.tolist())) > 1
    return Curve(tuple(x.tolist()), tuple(runs.means.tolist()), runs.slope() if shown else None, forecast, why)


def refusal(sizes: Floats, clusters: int) -> str | None:
    """Return why runs of these sizes [runs] foretell nothing, in one line; None if they may.

    >>> refusal(np.array([250.0, 500.0, 1000.0] * 3), 340)
    'nothing is foretold from 3 sizes; 4 are needed'
    """
    distinct = len(set(sizes.tolist()))
    if distinct < FEWEST_SIZES:
        return f"nothing is foretold from {distinct} sizes; {FEWEST_SIZES} are needed"
    if len(sizes) < FEWEST_RUNS:
        return f"nothing is foretold from {len(sizes)} runs; {FEWEST_RUNS} are needed"
    return f"nothing is foretold from fewer than {FEWEST} questions or clusters" if clusters < FEWEST else None


@dataclass(frozen=True)
class _Runs:
    """Runs of several sizes: u = log₂ size [runs], values [runs, questions], weights [questions]."""

    u: Floats
    values: Floats
    weights: Floats
    clusters: Clusters
    alpha: float

    @property
    def means(self) -> Floats:
        """The measure of each run, [runs]."""
        return np.asarray(self.values.sum(axis=1) / self.weights.sum(), float)

    def coefficients(self, degree: int) -> Floats:
        """Return the weights [degree + 1, runs] with which a polynomial's coefficients follow from the means."""
        return np.asarray(np.linalg.pinv(np.vander(self.u, degree + 1, increasing=True)), float)

    def at(self, u: float, degree: int) -> Floats:
        """Return the weights [runs] with which the polynomial's value at u follows from the means."""
        return np.asarray(u ** np.arange(degree + 1) @ self.coefficients(degree), float)

    def slope(self) -> Change:
        """Return the slope of the straight line."""
        return self.change(self.coefficients(LINE)[1], *self.scatter(LINE))

    def forecast(self) -> Change:
        """Return the change from the largest size to twice that, along the parabola."""
        last = float(self.u.max())
        return self.change(self.at(last + 1, PARABOLA) - self.at(last, PARABOLA), *self.scatter(PARABOLA))

    def contradicted(self) -> str | None:
        """Return how the largest size contradicts the parabola through all others; None if it is within the limits."""
        largest = self.u == self.u.max()
        before = _Runs(self.u[~largest], self.values[~largest], self.weights, self.clusters, self.alpha)
        weights = np.zeros(len(self.u))
        weights[~largest], weights[largest] = -before.at(float(self.u.max()), PARABOLA), 1 / largest.sum()
        missed = self.change(weights, *self.scatter(PARABOLA))
        if missed.low - 1e-9 <= 0 <= missed.high + 1e-9:  # rounding, where nothing varies
            return None
        return f"nothing is foretold: the largest size is {missed.value:+.2g} off what the smaller ones foretell"

    def scatter(self, degree: int) -> tuple[float, int]:
        """Return the variance of runs about the polynomial, with its degrees of freedom."""
        fitted = np.vander(self.u, degree + 1, increasing=True) @ self.coefficients(degree) @ self.means
        df = len(self.u) - degree - 1
        return float(((self.means - fitted) ** 2).sum()) / df, df

    def change(self, by: Floats, variance: float, df: int) -> Change:
        """Return the change that depends on the means by the weights `by` [runs], which vary by `variance`."""
        return change_of(by, self.values, self.weights, self.clusters, variance, df, self.alpha)


def change_of(
    by: Floats, values: Floats, weights: Floats, clusters: Clusters, variance: float, df: int, alpha: float
) -> Change:
    """Return a linear combination of runs' means with its limits: errors over questions and over runs together.

    Args:
        by: [runs], the combination.
        values: [runs, questions]; the means are Σ values / Σ weights.
        weights, clusters: of the questions.
        variance, df: of the runs about what was fitted to them, with its degrees of freedom.
        alpha: 1 − level of the limits.
    """
    sizes = clusters.sums(weights)
    questions = ratio_error(clusters.sums(by @ values), sizes)
    runs = sqrt(variance * float((by**2).sum()))
    freedom = degrees(questions**2, max(1.0, kish_number(sizes) - 1), [(runs**2, df)])
    value = float(by @ (values.sum(axis=1) / weights.sum()))
    half = float(scipy.stats.t.isf(alpha / 2, freedom)) * sqrt(questions**2 + runs**2)
    return Change(value, value - half, value + half, questions, runs, freedom)
