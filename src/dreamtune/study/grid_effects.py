"""What a grid says about each of its settings: main effects with intervals, and interactions that the data show.

An additive model is fitted to the runs' means: one effect for each value of each setting, against the value that is
listed first, averaged over all other settings. Its errors are those of a learning curve (`curves`): over the questions,
which all runs share, and over the runs, from their scatter about the model, in which interactions count as scatter. All
of it is exploratory: nothing was named beforehand, and nothing is corrected for the number of settings.

Two settings interact where the effect of one depends on the other. This is tested by the F test of their cells against
the additive model (Fisher 1925), adjusted over all pairs (Holm), and only where at least `FEWEST_DF` runs are left over
to tell scatter from interaction: the seeds of a grid, or its other settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import scipy  # which loads scipy.stats, a second's work, at its first use
from numpy.typing import ArrayLike

from dreamtune.evaluate.clusters import Clusters
from dreamtune.evaluate.intervals import Floats
from dreamtune.study.curves import Change, change_of
from dreamtune.study.family import holm

FEWEST_DF = 3
TINY = 1e-12  # a scatter below this share of all variation is rounding


@dataclass(frozen=True)
class MainEffect:
    """The mean change from a setting's first value to another one; None where no interval can be given.

    Attributes:
        setting: dotted name.
        first, other: the two values.
        runs: number of runs with the other value.
        change: with its limits, in the measure's unit; more is better.
    """

    setting: str
    first: Any
    other: Any
    runs: int
    change: Change


@dataclass(frozen=True)
class Interaction:
    """Whether the effect of one setting depends on another: p of the F test, and adjusted over the grid's pairs."""

    settings: tuple[str, str]
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class GridEffects:
    """What a grid says.

    Attributes:
        runs: how many runs it rests on.
        effects: of each setting, each value but the first.
        interactions: the pairs that could be tested, the smallest p first.
        refusal: why there are no effects, or no tests of interactions, in one line; None if there are both.
    """

    runs: int
    effects: tuple[MainEffect, ...]
    interactions: tuple[Interaction, ...]
    refusal: str | None


def grid_effects(
    coordinates: Sequence[Mapping[str, Any]],
    values: ArrayLike,
    clusters: Clusters | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 0.05,
) -> GridEffects:
    """Return what the runs of one grid say about its settings.

    Rank 8 gains 20 points over rank 4, at both rates:

    >>> grid = [{"rank": rank, "rate": rate} for rank in (4, 8) for rate in (1, 2)]
    >>> found = grid_effects(grid, np.arange(100) < np.array([[20], [30], [40], [50]]))
    >>> [(e.setting, e.other, round(e.change.value, 2)) for e in found.effects], found.refusal[:30]
    ([('rank', 8, 0.2), ('rate', 2, 0.1)], 'interactions are not tested: 0')

    Args:
        coordinates: [runs], each with the same settings.
        values: [runs, questions], of which more is better; with weights, sums over tokens.
        clusters: of the questions; None if they are unrelated.
        weights: [questions], tokens: the measure is Σ values / Σ weights.
        alpha: 1 − level of the limits.

    Raises:
        ValueError: shapes do not match.
    """
    y = np.asarray(values, float)
    if y.ndim != 2 or len(coordinates) != len(y):
        raise ValueError(f"values [runs, questions] of {len(coordinates)} runs are needed, not {list(y.shape)}")
    n = y.shape[1]
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    levels = {name: _levels(coordinates, name) for name in coordinates[0]}
    levels = {name: found for name, found in levels.items() if len(found) > 1}
    columns = {name: _dummies(coordinates, name, found) for name, found in levels.items()}
    design = np.column_stack([np.ones(len(y)), *columns.values()])
    df = len(y) - design.shape[1]
    if not levels or np.linalg.matrix_rank(design) < design.shape[1]:
        why = "settings change together in all runs, so that their effects cannot be told apart"
        return GridEffects(len(y), (), (), why if levels else "one point is no grid")
    if df < 1:
        why = f"{len(y)} runs are too few for {design.shape[1]} effects; add seeds, or the rest of the product"
        return GridEffects(len(y), (), (), why)
    means = np.asarray(y.sum(axis=1) / w.sum(), float)
    variance = _scatter(design, means) / df
    found = Clusters(np.arange(n)) if clusters is None else clusters
    by = np.linalg.pinv(design)  # [effects, runs]
    effects, row = [], 1
    for name, values_of in levels.items():
        for other, column in zip(values_of[1:], columns[name].T, strict=True):
            change = change_of(by[row], y, w, found, variance, df, alpha)
            if weights is None:  # shares of right answers
                change = replace(change, low=max(-1.0, change.low), high=min(1.0, change.high))
            effects.append(MainEffect(name, values_of[0], other, int(column.sum()), change))
            row += 1
    interactions, untested = _interactions(design, columns, means)
    return GridEffects(len(y), tuple(effects), interactions, untested)


def _levels(coordinates: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Return the values of a setting in the order in which they come; a value may be a mapping."""
    found: list[Any] = []
    for point in coordinates:
        if point[name] not in found:
            found.append(point[name])
    return found


def _dummies(coordinates: Sequence[Mapping[str, Any]], name: str, levels: Sequence[Any]) -> Floats:
    """Return a column for each value but the first, [runs, values − 1]."""
    return np.array([[float(point[name] == level) for level in levels[1:]] for point in coordinates])


def _scatter(design: Floats, means: Floats) -> float:
    """Return the sum of squares that a linear model leaves."""
    return float(((means - design @ (np.linalg.pinv(design) @ means)) ** 2).sum())


def _interactions(
    design: Floats, columns: Mapping[str, Floats], means: Floats
) -> tuple[tuple[Interaction, ...], str | None]:
    """Return the tests of all pairs of settings, and why there are none."""
    tested, most, whole = {}, 0, float(((means - means.mean()) ** 2).sum())
    additive = _scatter(design, means)
    for pair in combinations(columns, 2):
        cells = [a * b for a, b in product(columns[pair[0]].T, columns[pair[1]].T)]
        larger = np.column_stack([design, *cells])
        rank = int(np.linalg.matrix_rank(larger))
        more, left = rank - design.shape[1], len(means) - rank
        most = max(most, left)
        if more < 1 or left < FEWEST_DF:
            continue
        rest = _scatter(larger, means)
        if rest > TINY * whole:
            tested[pair] = float(scipy.stats.f.sf((additive - rest) / more / (rest / left), more, left))
    if len(columns) < 2:
        return (), None
    if not tested:
        return (
            (),
            f"interactions are not tested: {most} runs are left over to tell them from scatter; {FEWEST_DF} are needed",
        )
    adjusted = holm(list(tested.values()))
    found = [Interaction(pair, p, q) for (pair, p), q in zip(tested.items(), adjusted, strict=True)]
    return tuple(sorted(found, key=lambda one: one.p)), None
