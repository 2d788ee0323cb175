"""Quality against cost: the methods that no other one beats in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spot:
    """A method's mean quality and cost over its finished runs; more quality and less cost are better.

    Attributes:
        method: its name.
        quality: share of right answers, or minus the NLL in nats per token.
        cost: minutes of training.
        runs: how many finished runs they are means of.
    """

    method: str
    quality: float
    cost: float
    runs: int


def spots_of(rows: Sequence[Mapping[str, Any]], primary: str) -> tuple[list[Spot], str]:
    """Return a spot for each method of which a run may be compared, and the device that they ran on.

    Minutes of a CPU and of a GPU are not compared: methods on the rarer device are left out. So are numbers of the
    NLL of another kind than the most frequent one.

    Args:
        rows: see `table.rows_of`.
        primary: "accuracy" or "nll".
    """
    usable = [r for r in rows if r["stand"] == "finished" and None not in (r[primary], r["training_minutes"])]
    kinds = [(row["device"], row["nll_kind"] if primary == "nll" else None) for row in usable]
    kind = max(kinds, key=kinds.count, default=(None, None))
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for row, own in zip(usable, kinds, strict=True):
        if own == kind:
            methods.setdefault(row["method"], []).append(row)
    better = 1 if primary == "accuracy" else -1
    spots = [
        Spot(
            name,
            sum(better * row[primary] for row in found) / len(found),
            sum(row["training_minutes"] for row in found) / len(found),
            len(found),
        )
        for name, found in methods.items()
    ]
    return spots, "GPU" if kind[0] == "cuda" else "CPU"


def front(spots: Sequence[Spot]) -> list[Spot]:
    """Return the spots that no other one equals or beats in one of quality and cost and beats in the other.

    >>> spots = [Spot("a", 0.5, 9, 1), Spot("b", 0.6, 5, 1), Spot("c", 0.7, 20, 1), Spot("d", 0.2, 5, 1)]
    >>> [spot.method for spot in front(spots)]
    ['b', 'c']
    """
    best: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.cost, -spot.quality)):
        if not best or spot.quality > best[-1].quality:
            best.append(spot)
        elif spot.quality == best[-1].quality and spot.cost == best[-1].cost:
            best.append(spot)  # as good as the one before in both
    return best
