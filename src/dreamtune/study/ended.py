"""Runs of a study that ended without a report: which, what ended them, and how the study's sentences say it.

An ended run measured nothing on the test questions, so it is no evidence for or against its method. A method that lost
seeds is named so in each sentence about it: which seeds finish may depend on how well they train.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.halving import DECIDED, HALVE_FILE, STOPPED
from dreamtune.study.points import Point, by_method

By = Literal["gate", "failure", "halving"]
# What became of one run, and of several, in a clause about their method.
ONE = {"gate": "failed its gate", "failure": "failed", "halving": "was stopped early"}
SEVERAL = {"gate": "failed their gates", "failure": "failed", "halving": "were stopped early"}
LEADS = {"gate": "its smoke run failed its gate", "failure": "it failed", "halving": "it was stopped early"}


@dataclass(frozen=True)
class Ended:
    """A run of a study that ended without a report.

    Attributes:
        name: of the run, as `points.Point.name`.
        by: what ended it: its smoke run's gate; the failure of a job that is not tried again; or successive halving.
        reason: what was seen, in one line.
    """

    name: str
    by: By
    reason: str

    @property
    def said(self) -> str:
        """What ended the run and why, in one line.

        >>> Ended("qlora-seed1", "failure", "full: step 3: the loss is nan").said
        'it failed: full: step 3: the loss is nan'
        """
        return f"{LEADS[self.by]}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `Ended(**values)` makes it again."""
        return asdict(self)


def lost_seeds(planned: int, ended: Sequence[Ended]) -> str:
    """Return how many of a method's seeds finished, and what became of the others; "" if all finished.

    >>> gate = Ended("qlora-seed1", "gate", "the loss rose")
    >>> lost_seeds(3, [gate]), lost_seeds(3, [gate, gate]), lost_seeds(3, [])
    ('2 of 3 seeds; 1 failed its gate', '1 of 3 seeds; 2 failed their gates', '')

    Args:
        planned: number of the method's runs, the ended ones included.
        ended: those of them that ended.
    """
    if not ended:
        return ""
    kinds = [one.by for one in ended]
    counts = {kind: kinds.count(kind) for kind in ONE if kind in kinds}
    what = " and ".join(f"{n} {(ONE if n == 1 else SEVERAL)[kind]}" for kind, n in counts.items())
    return f"{planned - len(ended)} of {planned} seed{'s' if planned > 1 else ''}; {what}"


def lost_by_method(members: Sequence[Point], ended: Sequence[Ended]) -> dict[str, str]:
    """Return what became of the seeds of each method that lost any, in words; see `lost_seeds`."""
    gone = {one.name: one for one in ended}
    found = {
        name: lost_seeds(len(points), [gone[point.name] for point in points if point.name in gone])
        for name, points in by_method(members).items()
    }
    return {name: said for name, said in found.items() if said}


def finished_points(members: Sequence[Point], ended: Sequence[Ended]) -> list[Point]:
    """Return the runs that finished.

    Raises:
        UserError: all of them ended.
    """
    gone = {one.name for one in ended}
    finished = [point for point in members if point.name not in gone]
    if not finished:
        first, n = ended[0], len(members)
        raise UserError(
            f"no run of the study is left, {n} of {n} ended without a report; {first.name}: {first.said}; mend that, "
            "and set study.failed: wait if what failed is to be tried again"
        )
    return finished


def stopped_runs(reads: Mapping[str, Path | str]) -> list[Ended]:
    """Return the runs that were stopped by the decisions among a version's reads, each with the reason."""
    found = [Path(folder) / HALVE_FILE for name, folder in reads.items() if name.startswith(DECIDED)]
    return [
        Ended(run, "halving", reason.removeprefix(STOPPED))
        for path in found
        for run, reason in read_json(path)["stopped"].items()
    ]
