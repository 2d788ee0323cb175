"""Which runs of a study ended without a report, by what lies in `results/`: the plan then goes on without them.

A smoke run that failed its gate is a finished version that says so, so its full run is planned only where
`train.on_failed_gate` lets it continue. A job that fails for good leaves no version; when the driver ends it notes the
failure beside it, in `failure.json`. By that record `study.failed: leave_out` leaves the run out; under `wait` each
call of Snakemake tries it again. Torch-free.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from dreamtune.checks import failed
from dreamtune.config import Config, Experiment
from dreamtune.files import read_json, write_json
from dreamtune.formats.halving import STOPPED
from dreamtune.formats.training import GATE_FILE
from dreamtune.overview.states import last_words, why_unfinished
from dreamtune.rungs.plan import HalvedGrid, last_decisions, plan_halving, stopped_so_far, with_rungs
from dreamtune.study.ended import Ended
from dreamtune.workflow.experiments import Folders, is_study, make_plan, plan_study
from dreamtune.workflow.plan import RESULTS, Plan
from dreamtune.workflow.verification import FAILURE, MANIFEST, verify

INTERRUPTED = "stopped by SIG"  # begins what a job says that was asked to stop: the next call goes on with it
WORDLESS = "it was killed without a word (out of memory, or its node was lost?)"
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
        if not _finished(folder) and (reason := _noted(folder)):
            return Ended(name, "failure", f"{key}: {reason}")
    return None


def note_failures(versions: Iterable[tuple[str, str]]) -> None:
    """Note the failure of jobs that are not tried again in this call, each beside its version with its last words.

    A job that was asked to stop did not fail, and nothing is noted of it.

    Args:
        versions: stage and version of each job.
    """
    for stage, version in versions:
        folder = RESULTS / stage / version
        said = last_words(folder) or WORDLESS
        if folder.exists() and not _finished(folder) and not said.startswith(INTERRUPTED):
            write_json(folder / FAILURE, {"reason": said})


def study_of_finished(
    config: Config,
) -> tuple[Plan, dict[str, Folders], list[Path], list[Ended], str, dict[str, HalvedGrid]]:
    """Plan the study again after jobs failed.

    Returns:
        the plan; version folders of each run; those of the study's stages; the runs that ended; for which run the
        study still waits and why, in one line, "" if for none; and the grids that are halved.

    Raises:
        UserError: all runs ended, or as `make_plan`.
    """
    plan, latest = make_plan(config)
    ended = leave_out_ended(plan, config, latest)
    grids = plan_halving(plan, config, latest, ended)
    stages = plan_study(plan, config, latest, ended, last_decisions(grids))
    gone = {one.name for one in ended} | stopped_so_far(grids.values()).keys()
    unfinished = {
        name: {key: folder for key, folder in folders.items() if not _finished(folder)}
        for name, folders in with_rungs(latest, grids).items()
        if name not in gone
    }
    waits = {name: why_unfinished(folders)[1] for name, folders in unfinished.items() if folders}
    first = next(iter(waits.items()), None)
    said = f"{len(waits)} of {len(latest)} runs, first for {first[0]} ({first[1]})" if first else ""
    if first and any(len(grid.made) < len(grid.decisions) for grid in grids.values()):
        said += "; start snakemake again: halving then goes on without runs that ended"
    return plan, latest, stages, ended, said, grids


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


def _noted(folder: Path) -> str | None:
    """Return the noted reason why a version's job failed; None if there is none."""
    try:
        content: Mapping[str, Any] = read_json(folder / FAILURE)
        return str(content["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
