"""Importance sampling of the mask rate: rates that make the loss noisier are drawn more often, and weigh less.

A rate that is drawn with density p(t) instead of uniformly has its loss divided by p(t). This leaves the expectation of
every objective as it is, whatever p > 0, and its variance is least for p(t) proportional to the root of the mean square
at t (Kahn and Marshall 1953). Whose mean square is the question:

- of the *loss*: P-POTS (Jia et al. 2025, arXiv 2511.18159), p(t) ∝ sqrt(g(t)² + v(t)), where g is the mean over
  documents of the loss at t, and v that of its variance over masks, both measured on the model before training. The
  authors' code fits g by A·exp(k·t^m) and v by a·t^r + b·(1 − t)^q; here p is linear between evenly spaced rates.
- of the *gradient*, which is what a step takes: the same formula with the squared norm of the gradient, by the same
  argument (Zhao and Zhang 2015, arXiv 1401.2753, for examples in place of rates).

`benchmarks/objectives.py density` measures both, and prints the numbers for `train.rate_density`.
"""

from collections.abc import Sequence

import numpy as np


def redrawn(shares: np.ndarray, density: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return shares that follow a density, and the weights that keep expectations as they are: [n] each.

    Even shares stay even: the smallest becomes the smallest.

    Args:
        shares: [n] in [0, 1), uniform: how far each rate lies within the range of rates.
        density: relative densities at evenly spaced shares from 0 to 1, linear between, all positive; none is uniform.

    A density that rises from 1 to 3 has the mean 2, so it is 0.5 at 0 and 1.5 at 1:

    >>> places, weights = redrawn(np.array([0.0, 0.375, 0.9999999]), [1.0, 3.0])
    >>> places.round(3).tolist(), weights.round(3).tolist()
    ([0.0, 0.5, 1.0], [2.0, 1.0, 0.667])
    """
    if not len(density):
        return shares, np.ones(len(shares))
    heights = np.asarray(density, float)
    heights = heights / ((heights[1:] + heights[:-1]).mean() / 2)
    width = 1 / (len(heights) - 1)
    ends = np.cumsum([0.0, *(heights[1:] + heights[:-1]) / 2 * width])  # the probability up to each point
    bins = np.clip(np.searchsorted(ends, shares, side="right") - 1, 0, len(heights) - 2)
    left, slope, area = heights[bins], (heights[bins + 1] - heights[bins]) / width, shares - ends[bins]
    # area = left x + slope x² / 2, solved for x in a form that is exact for slope 0, too
    at = np.sqrt(np.maximum(left**2 + 2 * slope * area, 0.0))
    inside = np.clip(2 * area / (left + at), 0.0, width)
    places = np.minimum(bins * width + inside, np.nextafter(1.0, 0.0))
    return places, 1 / (left + slope * inside)


def best_density(means: np.ndarray, variances: np.ndarray) -> list[float]:
    """Return the density under which an estimate varies least: the root of its mean square, with the mean 1.

    Args:
        means, variances: [n] of the estimate at evenly spaced rates, from 0 to 1. For P-POTS these are of the loss.

    >>> best_density(np.array([0.0, 3.0]), np.array([4.0, 7.0]))
    [0.6667, 1.3333]
    """
    root = np.sqrt(means**2 + variances)
    return [round(float(value), 4) for value in root / ((root[1:] + root[:-1]).mean() / 2)]
