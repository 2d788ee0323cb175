"""A learning curve over steps: how a method's validation NLL falls while it trains, with its seeds as replicates.

States of one training are not independent, so no error is taken from their scatter: trend and forecast are worked out
for each seed by itself, and their errors are the scatter of these numbers over the seeds (Student's t), however a
training's states hang together. All is per doubling, so in u = log₂ step, and about the validation rows that were
measured.

What twice the steps would give comes from a parabola through the last three doublings. That curves are parabolas is
not known; so the same forecast is made from half the steps, where its outcome has been seen, and the limits are widened
by what it missed there. It is made only where the learning rate is constant: under any other schedule the state at half
of the steps is no training of half as many, and a longer training differs from its first steps on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np
import scipy  # which loads scipy.stats, a second's work, at its first use

from dreamtune.evaluate.intervals import Floats
from dreamtune.formats.reads import Reads
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.study.curves import LINE, PARABOLA, WIDEST

FEWEST_SEEDS, FEWEST_STATES = 3, 4
SPAN = 8  # the fitted steps are those from the last one's SPAN-th part on
TWICE = 2.2  # the last step is at most so many times the last one of the first half


@dataclass(frozen=True)
class Estimate:
    """A change of the NLL in nats per token, with its confidence limits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Course:
    """What a method's trainings show over their steps.

    Attributes:
        steps: of each training.
        seeds: number of trainings.
        per_doubling: mean change per doubling of the steps over the last three doublings; None where it is not known.
        twice: expected change from the last step to twice as many; None where `refusal` says why not.
        refusal: why nothing is foretold, in one line; None if there is a forecast.
    """

    steps: int
    seeds: int
    per_doubling: Estimate | None
    twice: Estimate | None
    refusal: str | None


def fit_course(curves: Sequence[Mapping[int, float]], constant: bool, alpha: float = 0.05) -> Course:
    """Return trend and forecast of a method's validation NLL over the steps.

    Three trainings whose NLL falls by 0.1 with each doubling:

    >>> curves = [{step: offset - 0.1 * log2(step) for step in range(50, 1601, 50)} for offset in (3.0, 3.1, 2.9)]
    >>> course = fit_course(curves, constant=True)
    >>> round(course.per_doubling.value, 3), round(course.twice.value, 3), course.refusal
    (-0.1, -0.1, None)

    Args:
        curves: of each seed, the NLL by step; step 0 is left out.
        constant: whether the learning rate is the same at all steps that are fitted.
        alpha: 1 − level of the limits.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("the curve of one training at least is needed")
    steps = sorted(set.intersection(*(set(curve) for curve in curves)) - {0})
    last = max(max(curve, default=0) for curve in curves)
    if why := _unfit(curves, steps, last):
        return Course(last, len(curves), None, None, why)
    runs = _Trainings(np.array(steps, float), np.array([[curve[step] for step in steps] for curve in curves]), alpha)
    trend = runs.estimate(runs.slopes(last))
    before = next((step for step in reversed(steps) if 2 * step <= last), 0)
    if why := _unforeseeable(steps, last, before, constant):
        return Course(last, len(curves), trend, None, why)
    missed = runs.estimate(runs.change(last, before, last) - runs.change(before, before, last))
    ahead = runs.estimate(runs.change(last, last, 2 * last), more=max(abs(missed.low), abs(missed.high)))
    if (width := ahead.high - ahead.low) > (widest := WIDEST * max(1.0, float(runs.nll[:, -1].mean()))):
        why = f"nothing is foretold: its limits would be {width:.2g} apart, {widest:.2g} at most"
        return Course(last, len(curves), trend, None, why)
    return Course(last, len(curves), trend, ahead, None)


def course_of(runs: Sequence[Reads], alpha: float = 0.05) -> Course | None:
    """Return what the trainings of one method show over their steps; None where no validation was logged.

    Args:
        runs: the version folders of each seed.
        alpha: 1 − level of the limits.
    """
    logs = [reads.json("full", TRAINING_FILE).get("validation", []) for reads in runs]
    if not all(logs):
        return None
    trains = [reads.json("full", "manifest.json").get("settings", {}).get("train", {}) for reads in runs]
    constant = all(t.get("schedule") == "constant" and 2 * SPAN * t.get("warmup", 1.0) <= 1 for t in trains)
    return fit_course([{line["step"]: line["validation_nll"] for line in log} for log in logs], constant, alpha)


def _unfit(curves: Sequence[Mapping[int, float]], steps: Sequence[int], last: int) -> str | None:
    """Return why not even a trend can be given."""
    if len(curves) < FEWEST_SEEDS:
        return f"nothing is foretold from {len(curves)} seeds; {FEWEST_SEEDS} are needed"
    if any(max(curve, default=0) != last for curve in curves):
        return "nothing is foretold: the seeds trained for different numbers of steps"
    states = sum(SPAN * step >= last for step in steps)
    if states < FEWEST_STATES:
        return f"nothing is foretold from {states} validations; {FEWEST_STATES} are needed (train.validate_every)"
    return None


def _unforeseeable(steps: Sequence[int], last: int, before: int, constant: bool) -> str | None:
    """Return why there is a trend, and no forecast."""
    if not constant:
        return (
            "nothing is foretold: the learning rate changes with the steps (train.schedule), so that a longer training "
            "differs from its first steps on"
        )
    states = sum(SPAN * step >= before and step <= before for step in steps)
    if states < FEWEST_STATES or last > TWICE * before:
        return (
            f"nothing is foretold: the first half has {states} validations to try a forecast on; {FEWEST_STATES} are "
            "needed (train.validate_every)"
        )
    return None


@dataclass(frozen=True)
class _Trainings:
    """Trainings of one method: their steps [states], and the NLL [seeds, states]."""

    steps: Floats
    nll: Floats
    alpha: float

    def fitted(self, end: int, degree: int) -> Floats:
        """Return the coefficients [degree + 1, seeds] of the polynomials in log₂ step through the states to `end`."""
        used = (SPAN * self.steps >= end) & (self.steps <= end)
        design = np.vander(np.log2(self.steps[used]), degree + 1, increasing=True)
        return np.asarray(np.linalg.pinv(design) @ self.nll[:, used].T, float)

    def slopes(self, end: int) -> Floats:
        """Return each seed's change per doubling, [seeds]."""
        return np.asarray(self.fitted(end, LINE)[1], float)

    def change(self, end: int, start: int, stop: int) -> Floats:
        """Return each seed's change from one step to another, [seeds], by the parabola through the states to `end`."""
        powers = [log2(step) ** np.arange(PARABOLA + 1) for step in (start, stop)]
        return np.asarray((powers[1] - powers[0]) @ self.fitted(end, PARABOLA), float)

    def estimate(self, each: Floats, more: float = 0.0) -> Estimate:
        """Return the mean over seeds with its limits, which are wider by `more` on both sides."""
        seeds, mean = len(each), float(each.mean())
        half = float(scipy.stats.t.isf(self.alpha / 2, seeds - 1)) * float(each.std(ddof=1)) / sqrt(seeds) + more
        return Estimate(mean, mean - half, mean + half)
