"""Plan all runs of a configuration, as far as they have not ended. Torch-free.

The driver plans when it starts, and once more at its end after jobs failed: by then more runs may have ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamtune.config import Config
from dreamtune.endings.runs import leave_out_ended, lines_on, with_stopped
from dreamtune.overview.members import members_of, write_members
from dreamtune.overview.states import why_unfinished
from dreamtune.rungs.plan import HalvedGrid, decided_by, last_decisions, plan_halving, stopped_so_far, with_rungs
from dreamtune.study.ended import Ended
from dreamtune.workflow.experiments import Folders, make_plan, plan_study
from dreamtune.workflow.plan import RESULTS, Plan
from dreamtune.workflow.verification import MANIFEST


@dataclass(frozen=True)
class PlannedRuns:
    """The runs of a configuration, and the versions that they need, by what lay in `results/` when they were planned.

    Attributes:
        config: the configuration.
        plan: all versions, without those that only an ended run would need.
        latest: version folders of each run by names such as "full"; of an ended run those that are finished.
        ended: the runs of a study that ended without a report, those aside that halving has stopped.
        grids: the grids that are halved, by name.
        stages: version folders of `study` and, where one is planned, of `confirm`; [] without a study.
    """

    config: Config
    plan: Plan
    latest: dict[str, Folders]
    ended: list[Ended]
    grids: dict[str, HalvedGrid]
    stages: list[Path]

    @property
    def going_on(self) -> dict[str, Folders]:
        """Version folders of each run that has not ended, as in `latest`."""
        gone = {one.name for one in self.ended}
        return {name: folders for name, folders in self.latest.items() if name not in gone}

    @property
    def folders(self) -> dict[str, Folders]:
        """Version folders of each run as in `latest`, and those of its rungs; see `rungs.plan.with_rungs`."""
        return with_rungs(self.latest, self.grids)

    def freeze(self) -> None:
        """Write what jobs and page read: each unfinished version's config.json, and a study's members.json.

        Raises:
            UserError: the results cannot be written to, or their disk is full.
        """
        self.plan.freeze()
        if self.stages:
            decided = decided_by(self.grids)
            members = members_of(self.config, self.folders, self.stages, self.ended, decided)
            write_members(RESULTS / "latest", members)

    def lines(self) -> Iterator[str]:
        """Return the lines for the user about the runs that ended, those that halving has stopped so far included.

        Raises:
            UserError: a decision is not what its manifest says.
        """
        return lines_on(with_stopped(self.ended, self.grids), len(self.latest))

    def waits(self) -> str:
        """Return for which run the study still waits and why, in one line; "" if all others ended or are finished.

        Raises:
            UserError: a decision is not what its manifest says.
        """
        stopped = stopped_so_far(self.grids.values())
        unfinished = {
            name: {key: folder for key, folder in folders.items() if not (folder / MANIFEST).exists()}
            for name, folders in with_rungs(self.going_on, self.grids).items()
            if name not in stopped
        }
        waits = {name: why_unfinished(folders)[1] for name, folders in unfinished.items() if folders}
        if not waits:
            return ""
        name, why = next(iter(waits.items()))
        said = f"{len(waits)} of {len(self.latest)} runs, first for {name} ({why})"
        if any(len(grid.made) < len(grid.decisions) for grid in self.grids.values()):
            said += "; start snakemake again: halving then goes on without runs that ended"
        return said


def plan_runs(config: Config) -> PlannedRuns:
    """Plan all runs of a configuration, and its study if it is one, without the runs that ended.

    Merges are not among them: `workflow.experiments.plan_merge` adds those.

    Raises:
        UserError: all runs ended, or as `make_plan`, `leave_out_ended` and `plan_study`.
    """
    plan, latest = make_plan(config)
    ended = leave_out_ended(plan, config, latest)
    grids = plan_halving(plan, config, latest, ended)
    stages = plan_study(plan, config, latest, ended, last_decisions(grids))
    return PlannedRuns(config, plan, latest, ended, grids, stages)
