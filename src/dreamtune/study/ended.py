"""Runs of a study that ended without a report: which, what ended them, and how the study's sentences say it.

An ended run measured nothing on the test questions, so it is no evidence for or against its method. A method that lost
seeds is named so in each sentence about it: which seeds finish may depend on how well they train.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
