"""The stage `halve`: after a rung of a grid's trainings, decide which points go on, and say why.

A method is its seeds, so it goes on or stops with all of them, by the mean of their validation NLLs. The stage is made
again when a point is added to the grid; the trainings, which hash their own settings alone, are not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from statistics import mean
from typing import Any

from dreamtune.files import finite, read_json, write_json
from dreamtune.formats.halving import DECIDED, HALVE_FILE, RUNG_FILE, STOPPED
from dreamtune.settings.study import Halving
from dreamtune.study.halving import halve

FORMAT = 1
RULE = (
    "After a share of the steps the points of one grid (on one data size) are ranked by their validation NLL, the mean "
    "over seeds, and the worst stop with all their seeds. A stopped point may have been the best in the end."
)


def run_halve(
    halving: Halving, share: float, methods: Mapping[str, Sequence[str]], reads: Mapping[str, Path], out: Path
) -> dict[str, Any]:
    """Write halve.json: all decisions about a grid so far; return counts for the manifest.

    Args:
        halving: the settings.
        share: the share of the steps that this rung ends after.
        methods: the names of each method's runs, for all methods of the grid.
        reads: the rungs of the runs that have not stopped, by the run's name; and the decision before, if there is one.
        out: folder for the file.
    """
    earlier: list[dict[str, Any]] = []
    stopped: dict[str, str] = {}
    for folder in (folder for name, folder in reads.items() if name.startswith(DECIDED)):
        before = read_json(folder / HALVE_FILE)
        earlier, stopped = before["decisions"], before["stopped"]
    running = {name: list(runs) for name, runs in methods.items() if not stopped.keys() & set(runs)}
    rungs = {run: read_json(reads[run] / RUNG_FILE) for runs in running.values() for run in runs}
    nll = {name: {share: _mean([rungs[run]["validation_nll"] for run in runs])} for name, runs in running.items()}
    decisions = halve(nll, [share], halving.keep, halving.fewest)
    said = []
    for one in decisions:
        why = next((f"{STOPPED}{run}: {ended}" for run in running[one.point] if (ended := rungs[run]["ended"])), None)
        said.append(asdict(one) | {"reason": why or one.reason})
        stopped |= {run: said[-1]["reason"] for run in running[one.point] if one.stops}
    write_json(
        out / HALVE_FILE,
        finite(
            {
                "format": FORMAT,
                "rule": RULE,
                "share": share,
                "decisions": [*earlier, *said],
                "stopped": stopped,
                "rungs": _by_rung({run: reads[run] for run in rungs}, stopped),
            }
        ),
    )
    return {"points": len(running), "stopped": sum(one.stops for one in decisions)}


def _by_rung(folders: Mapping[str, Path], stopped: Mapping[str, str]) -> dict[str, str | None]:
    """Return for each rung's folder why it is the last one, None if it goes on.

    Runs with equal settings share a rung: it goes on if one of them does.
    """
    found: dict[str, str | None] = {}
    for run, folder in folders.items():
        found[folder.as_posix()] = stopped.get(run) and found.get(folder.as_posix(), stopped[run])
    return found


def _mean(values: Iterable[float | None]) -> float:
    """Return the mean of a method's NLLs; NaN if one of its runs has none."""
    return mean(nan if value is None else value for value in values)
