"""Plan successive halving: the rungs of each halved run, and what is decided after each of them.

A rung and the full run hash the run's own settings alone, and only wait for the decision before they start. So a point
that is added to a grid makes the decisions again and its own rungs, and none that was trained; and a full run has the
same version, and is the same to the bit, with and without halving.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamtune.config import Config, Experiment
from dreamtune.formats.halving import DECIDED
from dreamtune.settings.study import Halving
from dreamtune.study.halved import halved_grids
from dreamtune.study.points import Point, by_method
from dreamtune.workflow.experiments import Folders, plan_training
from dreamtune.workflow.plan import Plan


@dataclass(frozen=True)
class HalvedGrid:
    """A grid whose points are halved.

    Attributes:
        runs: names of its runs.
        decisions: version folders of `halve`, after the first rung, the second, ….
        rungs: by run, the version folders of its rungs.
    """

    runs: tuple[str, ...]
    decisions: tuple[Path, ...]
    rungs: Mapping[str, tuple[Path, ...]]


def plan_halving(plan: Plan, config: Config, latest: Mapping[str, Folders]) -> dict[str, HalvedGrid]:
    """Plan the rungs and decisions of each halved grid; return the grids by name, {} without halving.

    A full run starts from the last rung and waits for the last decision, unless an experiment that is not halved shares
    it.

    Args:
        plan: receives the versions.
        config: the configuration.
        latest: the version folders of each run, from `make_plan`.
    """
    if config.study.halving is None:
        return {}
    grids = halved_grids(config.study, config.points)
    halved = {point.name for points in grids.values() for point in points}
    spared = {folders["full"] for name, folders in latest.items() if name not in halved}
    return {
        name: _plan_grid(plan, config, config.study.halving, points, latest, spared) for name, points in grids.items()
    }


def _plan_grid(
    plan: Plan,
    config: Config,
    halving: Halving,
    points: list[Point],
    latest: Mapping[str, Folders],
    spared: set[Path],
) -> HalvedGrid:
    methods = {method: [point.name for point in found] for method, found in by_method(points).items()}
    rungs: dict[str, tuple[Path, ...]] = {point.name: () for point in points}
    decisions: tuple[Path, ...] = ()
    for start, share in zip([0.0, *halving.after], halving.after, strict=False):
        for run, before in rungs.items():
            e = config.experiments[run]
            rung = _plan_rung(plan.under(e.cluster), e, latest[run], share)
            _go_on(plan, rung, start, before, decisions)
            rungs[run] = (*before, rung)
        read = {run: own[-1] for run, own in rungs.items()}
        read |= {f"{DECIDED}before": folder for folder in decisions[-1:]}
        rule = halving.model_copy(update={"of": None, "after": [share]})  # other shares decide nothing here
        names = {"share": share, "methods": methods}
        decisions = (*decisions, plan.add("halve", {"halving": rule}, reads=read, names=names))
    for run, own in rungs.items():
        if latest[run]["full"] not in spared:
            _go_on(plan, latest[run]["full"], halving.after[-1], own, decisions)
    return HalvedGrid(tuple(rungs), decisions, rungs)


def _plan_rung(plan: Plan, e: Experiment, folders: Folders, until: float) -> Path:
    return plan_training(plan, e, "rung", folders["shards"], {"gate": folders["smoke"]}, until)


def _go_on(plan: Plan, training: Path, start: float, rungs: tuple[Path, ...], decisions: tuple[Path, ...]) -> None:
    """Let a training go on from the last of these rungs, once the last of these decisions is made."""
    if rungs:
        spec = plan[training.parent.name, training.name]
        spec["order_only"] |= {"rung": rungs[-1].as_posix(), "decision": decisions[-1].as_posix()}
        spec["runtime"] |= {"rung": {"start": start}}
