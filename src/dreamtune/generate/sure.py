"""Which of a block's tokens are sure enough to be revealed together, besides those that are due.

Tokens revealed in one step are chosen without knowledge of each other. The nearer their probabilities are to 1, the
less that matters (Wu et al. 2025, Fast-dLLM, arXiv 2505.22618, theorem 1).
"""

import numpy as np

from dreamtune.settings.generate import GenerateConfig


def sure_tokens(probability: np.ndarray, revealed: int, settings: GenerateConfig) -> np.ndarray:
    """Return which of a block's masked positions are sure, [N] bool.

    Args:
        probability: [N] float64, the untempered probability of each position's token.
        revealed: number of the block's positions that are revealed already.
        settings: `threshold` and `threshold_fall`, or `factor`; without them nothing is sure.

    With a threshold of 0.9 that falls by half of the certainty, two revealed positions and two of 0.9 and 0.5 have a
    certainty of (2 + 1.4) / 4 = 0.85 and a bound of 0.9 · (1 − 0.5 · 0.85) = 0.5175:

    >>> sure_tokens(np.array([0.9, 0.5]), 2, GenerateConfig(threshold=0.9, threshold_fall=0.5)).tolist()
    [True, False]

    With a factor of 0.5 the two likeliest of these are sure, since 3 · (1 − 0.9) < 0.5 and 4 · (1 − 0.8) is not:

    >>> sure_tokens(np.array([0.8, 0.95, 0.9]), 0, GenerateConfig(factor=0.5)).tolist()
    [False, True, True]
    """
    if settings.factor is not None:
        return _within_factor(probability, settings.factor)
    if settings.threshold is None:
        return np.zeros(len(probability), bool)
    certainty = (revealed + probability.sum()) / (revealed + len(probability))
    sure: np.ndarray = probability >= settings.threshold * (1 - settings.threshold_fall * certainty)
    return sure


def _within_factor(probability: np.ndarray, factor: float) -> np.ndarray:
    """Return the n likeliest positions, for the largest n with (n + 1) · (1 − probability of the n-th) < factor."""
    likeliest = np.argsort(-probability, kind="stable")  # the leftmost of equal ones first
    risk = (np.arange(len(probability)) + 2) * (1 - probability[likeliest])
    within = np.flatnonzero(risk < factor)
    sure = np.zeros(len(probability), bool)
    if len(within):
        sure[likeliest[: within[-1] + 1]] = True
    return sure
