"""What passes between the stages of successive halving: the rungs of a training, and what was decided after each."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

RUNG_FILE = "rung.json"  # of a rung: its step, its validation NLL in nats per token (or null), and why it ended
REACHED = "reached"  # folder of a rung: the checkpoint from which the next one goes on
HALVE_FILE = "halve.json"  # all decisions about a grid so far; the runs that stopped, and the rungs, with the reasons
STOPPED = "stopped: "  # begins the reason of a run that stopped
DECIDED = "decided:"  # begins the name under which a version reads decisions; no run has a colon in its name


@dataclass(frozen=True)
class Rung:
    """The part of a training between two decisions: from a share of its steps (0 to 1) to another one."""

    start: float = 0.0
    until: float = 1.0

    def last_step(self, total: int) -> int:
        """Return the step after which the rung ends, of a run of `total` steps.

        >>> Rung(0.0, 0.25).last_step(375), Rung(0.5, 1.0).last_step(375)
        (94, 375)
        """
        return ceil(self.until * total - 1e-9)


WHOLE = Rung()


def rung_of(spec: Mapping[str, Any]) -> Rung:
    """Return the part of a run that a training's version makes, by the version's specification.

    Where a rung ends is hashed into its version; where it starts changes no result.
    """
    return Rung(**spec["settings"].get("rung", {}), **spec["runtime"].get("rung", {}))
