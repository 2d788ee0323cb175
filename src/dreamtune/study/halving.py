"""Successive halving: stop the points of a grid that do worst on validation while they train.

After each named share of the steps, the better part of the points that still train goes on (Jamieson and Talwalkar
2016, AISTATS 51:240). It decides on the validation NLL, never on test answers, and only by rank within the grid: where
all points do well, the same number stops. A point that stops early may have been the best in the end, so a study says
which points stopped, when and why; it halves nothing unless it is asked to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite


@dataclass(frozen=True)
class Decision:
    """What was decided about one point after one share of its steps.

    Attributes:
        point, share: which point, after which share of its steps (0 to 1).
        nll: its validation NLL then, in nats per token.
        place, of: its place among the points that still trained, the best being 1.
        stops: whether it ends here.
    """

    point: str
    share: float
    nll: float
    place: int
    of: int
    stops: bool

    @property
    def reason(self) -> str:
        """The decision in words."""
        where = f"place {self.place} of {self.of} by validation NLL ({self.nll:.4g}) after {100 * self.share:.3g} %"
        return f"{'stopped' if self.stops else 'goes on'}: {where} of its steps"


def halve(
    nll: Mapping[str, Mapping[float, float]], shares: Sequence[float], keep: float = 0.5, fewest: int = 1
) -> list[Decision]:
    """Return the decisions about the points of a grid, first those after the smallest share.

    Of m points ⌈keep · m⌉ go on, at least `fewest`. A point whose NLL is not finite is placed last and always stops.
    Of equal ones the one named first is placed first.

    >>> curves = {"a": {0.25: 2.0, 0.5: 1.9}, "b": {0.25: 1.5, 0.5: 1.4}, "c": {0.25: 1.6, 0.5: 1.2}}
    >>> [(d.point, d.share) for d in halve(curves, [0.25, 0.5]) if d.stops]
    [('a', 0.25), ('b', 0.5)]

    Args:
        nll: by point, the validation NLL (nats per token) after each share of its steps. A point that stopped needs no
            later ones.
        shares: shares of the steps after which points stop, in (0, 1).
        keep: share of the points that go on each time, in (0, 1).
        fewest: points that go on at least.

    Raises:
        ValueError: a share or `keep` is out of its range, or a point has no NLL after a share that it reached.
    """
    if not all(0 < value < 1 for value in [keep, *shares]):
        raise ValueError(f"shares and keep must lie between 0 and 1, not {[*shares, keep]}")
    running, decisions = list(nll), []
    for share in sorted(shares):
        if missing := [point for point in running if share not in nll[point]]:
            raise ValueError(f"{missing[0]} has no validation NLL after {100 * share:.3g} % of its steps")
        ranked = sorted(running, key=lambda point: _last_if_not_finite(nll[point][share]))
        kept = places(len(ranked), keep, fewest)
        for place, point in enumerate(ranked, start=1):
            stops = place > kept or not isfinite(nll[point][share])
            decisions.append(Decision(point, share, nll[point][share], place, len(ranked), stops))
            if stops:
                running.remove(point)
    return decisions


def places(points: int, keep: float, fewest: int) -> int:
    """Return how many places go on, of so many points.

    >>> places(9, 0.5, 1), places(1, 0.5, 2)
    (5, 2)
    """
    return max(fewest, ceil(keep * points - 1e-9))


def _last_if_not_finite(value: float) -> tuple[bool, float]:
    return (False, value) if isfinite(value) else (True, 0.0)
