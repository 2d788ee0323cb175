"""Which runs of a study ended without a report, by what lies in `results/`: the plan then goes on without them.

A smoke run that failed its gate is a finished version that says so, so its full run is planned only where
`train.on_failed_gate` lets it continue. A job that fails for good leaves no version; when the driver ends it notes the
failure beside it, in `failure.json`. By that record `study.failed: leave_out` leaves the run out; under `wait` each
call of Snakemake tries it again. Torch-free.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

from dreamtune.checks import failed
from dreamtune.config import Config, Experiment
from dreamtune.endings.failures import noted_failure
from dreamtune.files import read_json
from dreamtune.formats.halving import STOPPED
from dreamtune.formats.training import GATE_FILE
from dreamtune.rungs.plan import HalvedGrid, plan_halving, stopped_so_far, with_rungs
from dreamtune.study.ended import Ended
from dreamtune.workflow.experiments import Folders, is_study
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.verification import MANIFEST, verify

MOST = 5  # runs that are named
REMEDY = {
    "gate": "mend what the gate names, or set train.on_failed_gate: continue for a run judged invalid",
    "failure": "set study.failed: wait to try what failed again",
    "halving": "",
}


def leave_out_ended(plan: Plan, config: Config, latest: dict[str, Folders]) -> list[Ended]:
    """Return the runs of a study that ended, and take out of the plan what only these would need.

    Args:
        plan: of all runs; versions are removed.
        config: the configuration; without a study, no run is left out.
        latest: version folders of each run, from `make_plan`. Of an ended run only the finished ones stay.

    Raises:
        UserError: a smoke run's gate.json is not what its manifest says.
    """
    if not is_study(config):
        return []
    made = with_rungs(latest, plan_halving(copy(plan), config, latest))  # a rung may have failed, too
    found = ((name, _ended(name, e, made[name], config.study.failed)) for name, e in config.experiments.items())
    ended = [one for _, one in found if one]
    for one in ended:
        latest[one.name] = {key: folder for key, folder in latest[one.name].items() if _finished(folder)}
    needed = {(folder.parent.name, folder.name) for folders in latest.values() for folder in folders.values()}
    for key in (plan.keys() - needed) if ended else ():
        del plan[key]
    return ended


def _ended(name: str, experiment: Experiment, folders: Folders, on_failure: str) -> Ended | None:
    if _finished(folders["report"]):
        return None
    if experiment.train.on_failed_gate == "stop" and _finished(folders["smoke"]) and not _finished(folders["full"]):
        verify(folders["smoke"], GATE_FILE)
        gate = read_json(folders["smoke"] / GATE_FILE)
        if not gate["passed"]:
            return Ended(name, "gate", "; ".join(failed(gate["checks"])))
    for key, folder in folders.items() if on_failure == "leave_out" else ():
        if not _finished(folder) and (reason := noted_failure(folder)):
            return Ended(name, "failure", f"{key}: {reason}")
    return None


def with_stopped(ended: Sequence[Ended], grids: Mapping[str, HalvedGrid]) -> list[Ended]:
    """Return the runs that ended, and those that halving has stopped so far.

    Raises:
        UserError: a decision is not what its manifest says.
    """
    stopped = stopped_so_far(grids.values())
    return [*ended, *(Ended(run, "halving", reason.removeprefix(STOPPED)) for run, reason in stopped.items())]


def lines_on(ended: Sequence[Ended], runs: int) -> Iterator[str]:
    """Yield the lines for the user about runs that ended; none if none did.

    Args:
        ended: the runs.
        runs: number of runs of the study.
    """
    if not ended:
        return
    yield f"{len(ended)} of {runs} runs of the study ended without a report, and count as no evidence:"
    yield from (f"  {one.name}: {one.said}" for one in ended[:MOST])
    if len(ended) > MOST:
        yield f"  and {len(ended) - MOST} more, see results/latest/index.html"
    if remedies := [text for kind, text in REMEDY.items() if text and kind in {one.by for one in ended}]:
        yield f"  {'; '.join(remedies)}"


def _finished(folder: Path) -> bool:
    return (folder / MANIFEST).exists()
