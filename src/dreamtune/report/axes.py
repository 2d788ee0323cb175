"""The ticks of the charts' axes: round values, and a label for each. No two labels of an axis are the same text."""

import json
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

import altair as alt

from dreamtune.readable import minus

NICE = (1.0, 2.0, 2.5, 5.0, 10.0)  # leading digits of the distance between ticks
SMALL = 1e-3  # ticks closer than this are written with an exponent
UNITS = ((7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"))  # from how many seconds, seconds of one, name


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Return 2 to `most` round values at equal distances; the first is at most `low`, the last at least `high`.

    Args:
        low, high: limits of the data; where they are equal, the ticks span a range around them.
        most: largest number of ticks, at least 3.
        whole: whether the axis counts something, so that every tick is a whole number.

    >>> ticks(0, 0.9), ticks(0, 1, whole=True), ticks(0.7, 4.2)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0, 1], [0.0, 2.0, 4.0, 6.0])
    """
    if high <= low:
        low, high = (low, low + 1) if whole or low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
    power = floor(log10((high - low) / most)) - 1
    power = max(power, 0) if whole else power
    steps = (digit * 10.0**exponent for exponent in range(power, power + 4) for digit in NICE[:-1])
    for step in steps:
        if whole and step != round(step):
            continue
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        if last - first < most:
            values = [round(i * step, 12 - power) for i in range(first, last + 1)]
            return [round(value) for value in values] if whole else values
    raise AssertionError(f"no ticks from {low} to {high}")  # one of four powers of ten is always large enough


def within(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Return those of the `ticks` that lie between the limits, for an axis that ends where its data do.

    >>> within(1, 375, whole=True)
    [100, 200, 300]
    """
    found = [tick for tick in ticks(low, high, most, whole) if low <= tick <= high]
    return found if len(found) > 1 else ticks(low, high, most, whole)


def labels(values: Sequence[float]) -> list[str]:
    """Return the ticks as text, all with as many decimals as they need to differ.

    >>> labels([0, 0.5, 1]), labels([0, 1000]), labels([0, 5e-6, 1e-5]), labels([0.0, 0.0025, 0.005])
    (['0.0', '0.5', '1.0'], ['0', '1,000'], ['0', '5e-6', '1e-5'], ['0.0000', '0.0025', '0.0050'])
    """
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    if step < SMALL and max(map(abs, values)) < 100 * step:  # an exponent with three digits tells these apart
        return ["0" if value == 0 else scientific(value) for value in values]
    decimals = next(d for d in range(12) if all(abs(v - round(v, d)) < step / 1000 for v in values))
    return [minus(f"{value:,.{decimals}f}") for value in values]


def scientific(value: float) -> str:
    """Return a number with the shortest mantissa that keeps three digits.

    >>> scientific(2e-5), scientific(0.00125)
    ('2e-5', '1.25e-3')
    """
    mantissa, _, power = f"{value:.2e}".partition("e")
    return minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}")


def in_unit(seconds: float) -> tuple[float, str]:
    """Return the seconds of one unit, and the unit's name, in which a duration is a small number.

    >>> in_unit(45), in_unit(600)
    ((1.0, 'seconds'), (60.0, 'minutes'))
    """
    return next(((unit, name) for least, unit, name in UNITS if seconds >= least), (1.0, "seconds"))


def axis(values: Sequence[float], texts: Sequence[str] | None = None, **more: Any) -> alt.Axis:
    """Return an axis with exactly these ticks, labelled with `texts`, or with their `labels`."""
    texts = labels(values) if texts is None else texts
    found = f"{json.dumps(list(texts))}[indexof({json.dumps(list(values))}, datum.value)]"
    return alt.Axis(values=list(values), labelExpr=found, **more)


def spanning(values: Sequence[float], **more: Any) -> alt.Scale:
    """Return a scale from the first tick to the last."""
    return alt.Scale(domain=[values[0], values[-1]], nice=False, zero=False, **more)
