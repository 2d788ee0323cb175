"""Random numbers as a function of integer keys, by SplitMix64 (Steele, Lea and Flood 2014).

There is no generator with a state: a number depends on its keys alone (seed, epoch, example, position, …), so neither
micro-batches nor the number of processes nor resuming can change it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

INCREMENT = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
LOW = 2**64 - 1  # the lowest 64 bits
STEP, FACTORS = int(INCREMENT), tuple(map(int, MULTIPLIERS))  # for Python's integers
BITS = 23  # (n + 0.5) / 2^23 is exact in float32, so it is never rounded to 0 or 1


def splitmix64(bits: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for each state, [...] uint64 to [...] uint64.

    `bits` must be an array: numpy warns of the wrap-around modulo 2^64 for scalars, and not for arrays.
    """
    bits = bits + INCREMENT
    bits = (bits ^ (bits >> np.uint64(30))) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))


def counter_hash(key: Sequence[int], counters: np.ndarray) -> np.ndarray:
    """Return 64 random bits for each counter: that output, counted from 0, of a SplitMix64 seeded with `key`.

    Args:
        key: integers of any size; only their lowest 64 bits count.
        counters: [n] integers from 0.

    Returns:
        [n] uint64, the same on every machine.

    >>> bool(counter_hash((7, 1), np.arange(3))[2] == counter_hash((7, 1), np.array([2]))[0])
    True
    """
    state = 0
    for number in key:
        state = _next(state ^ (number & LOW))
    return splitmix64(np.array([state], np.uint64) + counters.astype(np.uint64) * INCREMENT)


def _next(state: int) -> int:
    """Return SplitMix64's output for one state: `splitmix64` of an integer, which is several times as fast so.

    >>> _next(7) == int(splitmix64(np.array([7], np.uint64))[0])
    True
    """
    bits = (state + STEP) & LOW
    bits = ((bits ^ (bits >> 30)) * FACTORS[0]) & LOW
    bits = ((bits ^ (bits >> 27)) * FACTORS[1]) & LOW
    return bits ^ (bits >> 31)


def uniforms(key: Sequence[int], counters: np.ndarray) -> np.ndarray:
    """Return a float64 number in [0, 1) for each counter [n]; see `counter_hash`."""
    return (counter_hash(key, counters) >> np.uint64(11)) * 2.0**-53


def open_uniforms(*keys: Any) -> np.ndarray:
    """Return float64 numbers inside (0, 1), never 0 or 1, one for each element of the keys broadcast together.

    Args:
        keys: integers or integer arrays, such as seed, example and an array of positions.

    >>> open_uniforms(0, 42, np.arange(5)).shape
    (5,)
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = splitmix64(state + np.asarray(key).astype(np.uint64))
    return ((state >> np.uint64(64 - BITS)).astype(np.float64) + 0.5) * 2.0**-BITS
