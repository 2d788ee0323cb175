"""Random numbers that are a function of what they are for: no generator that advances, so no batch can enter."""

from typing import Any

import numpy as np

INCREMENT = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
BITS = 23  # a number this coarse is never rounded to 0 or 1, not even in float32


def uniforms(*keys: Any) -> np.ndarray:
    """Return float64 numbers inside (0, 1), one for each element of the integer keys broadcast together.

    SplitMix64's finaliser (Steele, Lea and Flood 2014) over each key in turn.
    """
    state = np.zeros(1, np.uint64)  # an array, not a scalar: arrays wrap around silently
    for key in keys:
        state = state + np.asarray(key).astype(np.uint64) + INCREMENT
        state = (state ^ (state >> np.uint64(30))) * MULTIPLIERS[0]
        state = (state ^ (state >> np.uint64(27))) * MULTIPLIERS[1]
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(64 - BITS)).astype(np.float64) + 0.5) * 2.0**-BITS
