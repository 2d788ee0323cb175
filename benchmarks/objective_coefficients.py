"""The mean square of a gradient under each way to mask, as a sum over the number k of masked tokens.

Given k, every way masks a uniform set of k of the L tokens. Let G be the gradient of Σ CE over the set, and G' that
over its complement. With p the density of rates, the mean square is the sum over k of the mean over sets of

    independent t     |G|² ∫ P(k | t) / (t² p(t)) dt
    exact counts      |G|² (L/k)² ∫ 1/p(s) ds over the k-th of L equal parts
    pairs             the same of half the sum of both gradients, each with its own weight
"""

import _src  # noqa: F401, puts src on the path
import numpy as np
from scipy.stats import binom

from dreamtune.objective.density import redrawn
from dreamtune.objective.diffusion import MIN_RATE
from dreamtune.settings.train import TrainConfig


def pair_weights(counts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of a set and of its complement in an exact pair; all tokens stand alone at full weight."""
    alone = counts == length
    others = np.where(alone, 0.0, length / np.maximum(length - counts, 1) / 2)
    return np.where(alone, 1.0, length / counts / 2), others


def coefficients(train: TrainConfig, length: int) -> np.ndarray:
    """Return by what |G|², |G'|² and G·G' of k masked tokens are multiplied in the mean square: [L + 1, 3]."""
    counts, table = np.arange(length + 1), np.zeros((length + 1, 3))
    if train.exact_counts:
        edges = np.arange(length + 1) / length
        share = np.concatenate([[0.0], _over_density(train, edges)])  # ∫ 1/p(s) ds over each part
        if train.objective == "uniform":
            table[:, 0] = share
            return table
        first, second = pair_weights(np.maximum(counts, 1), length)
        if not train.pairs_masks:
            first, second = length / np.maximum(counts, 1), np.zeros(length + 1)
        table = np.stack([first**2, second**2, 2 * first * second], axis=1) * share[:, None]
        return table
    low, high = max(train.rate_range[0], MIN_RATE), min(train.rate_range[1], 1 - MIN_RATE if train.pairs_masks else 1.0)
    rates, steps = _rates(low, high)
    likely = binom.pmf(counts[:, None], length, rates) * steps * density_weight(train, (rates - low) / (high - low))
    if not train.pairs_masks:
        table[:, 0] = (likely / rates**2).sum(1)
        return table
    for column, weight in enumerate((1 / rates**2, 1 / (1 - rates) ** 2, 2 / rates / (1 - rates))):
        table[:, column] = (likely * weight).sum(1) / 4
    table[length, 0] += table[0, 1]  # nothing is masked first, so all in the complement: |G'|² is |G|² of all
    return table


def mean_coefficients(train: TrainConfig, length: int) -> np.ndarray:
    """Return by what G of k masked tokens is multiplied in the mean gradient of a biased way without pairs: [L + 1]."""
    counts = np.arange(length + 1)
    if train.objective == "uniform":
        return np.where(counts > 0, 1 / length, 0.0)
    rates, steps = _rates(max(train.rate_range[0], MIN_RATE), train.rate_range[1])
    return np.asarray((binom.pmf(counts[:, None], length, rates) * steps / rates).sum(1))


def _rates(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rates in a range, dense at both its ends, and the share of the range that each stands for."""
    ends = np.geomspace(1e-4, 0.5, 1500)
    edges = np.unique(np.concatenate([[0.0], ends, 1 - ends, [1.0]]))
    return low + (high - low) * (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def density_weight(train: TrainConfig, places: np.ndarray) -> np.ndarray:
    """Return 1/p at these shares of the range of rates."""
    if not train.rate_density:
        return np.ones(len(places))
    at, weights = redrawn((np.arange(20_000) + 0.5) / 20_000, train.rate_density)
    return np.interp(places, at, weights)


def _over_density(train: TrainConfig, edges: np.ndarray) -> np.ndarray:
    """Return ∫ 1/p(s) ds between successive edges."""
    inside = (edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(16) + 0.5) / 16).ravel()
    return np.asarray(density_weight(train, inside).reshape(-1, 16).mean(1) * np.diff(edges))
