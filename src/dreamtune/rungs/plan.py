"""Plan successive halving: the rungs of each halved run, and what is decided after each of them.

A rung and the full run hash the run's own settings alone, and only wait for the decision before they start. So a point
that is added to a grid makes the decisions again and its own rungs, and none that was trained; and a full run has the
same version, and is the same to the bit, with and without halving.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamtune.config import Config, Experiment
from dreamtune.formats.halving import DECIDED
from dreamtune.settings.study import Halving
from dreamtune.study.ended import Ended
from dreamtune.study.halved import halved_grids
from dreamtune.study.halving import places
from dreamtune.study.points import Point, by_method
from dreamtune.workflow.experiments import Folders, plan_training
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.verification import MANIFEST, read_stopped

RUNG = "rung-"  # begins the name of a rung among the version folders of a run
BEFORE_FULL = ("shards", "references", "smoke")


@dataclass(frozen=True)
class HalvedGrid:
    """A grid whose points are halved.

    Attributes:
        halving: the settings.
        methods: the runs of each of its methods.
        decisions: version folders of `halve`, after the first rung, the second, ….
        rungs: by run, the version folders of its rungs.
    """

    halving: Halving
    methods: Mapping[str, Sequence[str]]
    decisions: tuple[Path, ...]
    rungs: Mapping[str, tuple[Path, ...]]

    @property
    def made(self) -> list[Path]:
        """Those of the decisions that are made."""
        return [folder for folder in self.decisions if (folder / MANIFEST).exists()]

    def go_on(self, points: int) -> int:
        """Return how many of so many points go on after a rung, if all have a finite NLL."""
        return min(points, places(points, self.halving.keep, self.halving.fewest))


def plan_halving(
    plan: Plan, config: Config, latest: Mapping[str, Folders], ended: Iterable[Ended] = ()
) -> dict[str, HalvedGrid]:
    """Plan the rungs and decisions of each halved grid; return the grids by name, {} without halving.

    A full run starts from the last rung and waits for the last decision, unless an experiment that is not halved shares
    it.

    Args:
        plan: receives the versions.
        config: the configuration.
        latest: the version folders of each run, from `make_plan`.
        ended: the runs that ended without a report; their methods compete with the seeds that are left.
    """
    if config.study.halving is None:
        return {}
    gone = {one.name for one in ended}
    grids = {
        name: [point for point in points if point.name not in gone]
        for name, points in halved_grids(config.study, config.points).items()
    }
    halved = {point.name for points in grids.values() for point in points}
    spared = {folders.get("full") for name, folders in latest.items() if name not in halved}
    return {
        name: _plan_grid(plan, config, config.study.halving, points, latest, spared)
        for name, points in grids.items()
        if len(by_method(points)) > 1
    }


def last_decisions(grids: Mapping[str, HalvedGrid]) -> dict[str, Path]:
    """Return the version folder of the last decision on each grid."""
    return {name: grid.decisions[-1] for name, grid in grids.items()}


def decided_by(grids: Mapping[str, HalvedGrid]) -> dict[str, tuple[Path, ...]]:
    """Return for each run the version folders of the decisions on it."""
    return {run: grid.decisions for grid in grids.values() for run in grid.rungs}


def stopped_so_far(grids: Iterable[HalvedGrid]) -> dict[str, str]:
    """Return the runs that were stopped by the decisions that are made, each with the reason.

    Raises:
        UserError: a decision is not what its manifest says.
    """
    return {run: why for grid in grids for folder in grid.made[-1:] for run, why in read_stopped(folder).items()}


def with_rungs(latest: Mapping[str, Folders], grids: Mapping[str, HalvedGrid]) -> dict[str, Folders]:
    """Return the version folders of each run with those of its rungs, such as "rung-25", before that of "full"."""
    shares = {run: grid.halving.after for grid in grids.values() for run in grid.rungs}
    rungs = {run: own for grid in grids.values() for run, own in grid.rungs.items()}
    found: dict[str, Folders] = {}
    for run, folders in latest.items():
        own = zip(shares.get(run, []), rungs.get(run, []), strict=True)
        named = {f"{RUNG}{100 * share:.3g}": folder for share, folder in own}
        after = {key: folder for key, folder in folders.items() if key not in BEFORE_FULL}
        found[run] = {key: folder for key, folder in folders.items() if key in BEFORE_FULL} | named | after
    return found


def to_come(
    plan: Plan, grids: Iterable[HalvedGrid], latest: Mapping[str, Folders], known: Collection[str]
) -> tuple[list[dict[str, Any]], int]:
    """Return what will be made after decisions that are not made yet: its amount, since nobody knows who will go on.

    It is known how many points do. Those that need the most versions stand for them.

    Args:
        plan: of all versions.
        grids: from `plan_halving`.
        latest: the version folders of each run.
        known: versions that are known to be made.

    Returns:
        the specifications of the versions that are to be made besides, and the number of runs that will be published.
    """

    def unmade(folders: Iterable[Path]) -> set[Path]:
        return {one for one in folders if one.name not in known and not (one / MANIFEST).exists()}

    versions: set[Path] = set()
    published = 0
    for grid in grids:
        stopped = stopped_so_far([grid])
        needs = {
            name: unmade(folder for run in runs for folder in latest[run].values())
            for name, runs in grid.methods.items()
            if not stopped.keys() & set(runs)
        }
        running = sorted(needs, key=lambda name: -len(needs[name]))
        for number in range(len(grid.made), len(grid.decisions)):
            running = running[: grid.go_on(len(running))]
            runs = [run for name in running for run in grid.methods[name]]
            if number + 1 < len(grid.decisions):
                versions |= unmade(grid.rungs[run][number + 1] for run in runs)
            else:
                versions |= {folder for name in running for folder in needs[name]}
                published += len(runs)
    return [plan[folder.parent.name, folder.name] for folder in sorted(versions)], published


def in_words(grids: Mapping[str, HalvedGrid]) -> str:
    """Return how many points of each grid go on after which share of the steps; "" without halving."""
    said = []
    for name, grid in grids.items():
        left = len(grid.methods)
        after = [f"{(left := grid.go_on(left))} after {100 * share:.3g} %" for share in grid.halving.after]
        said.append(f"of the {len(grid.methods)} points of {name} {', '.join(after)} of the steps")
    return f"halving lets go on {'; '.join(said)}" if said else ""


def _plan_grid(
    plan: Plan,
    config: Config,
    halving: Halving,
    points: list[Point],
    latest: Mapping[str, Folders],
    spared: set[Path | None],
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
    return HalvedGrid(halving, methods, decisions, rungs)


def _plan_rung(plan: Plan, e: Experiment, folders: Folders, until: float) -> Path:
    return plan_training(plan, e, "rung", folders["shards"], {"gate": folders["smoke"]}, until)


def _go_on(plan: Plan, training: Path, start: float, rungs: tuple[Path, ...], decisions: tuple[Path, ...]) -> None:
    """Let a training go on from the last of these rungs, once the last of these decisions is made."""
    if rungs:
        spec = plan[training.parent.name, training.name]
        waits = {"rung": rungs[-1].as_posix(), "decision": decisions[-1].as_posix()}
        plan[training.parent.name, training.name] = spec | {
            "order_only": spec["order_only"] | waits,
            "runtime": spec["runtime"] | {"rung": {"start": start}},
        }
