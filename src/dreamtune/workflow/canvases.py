"""The canvases of all experiments, for the warnings before training: noted beside the shards they are compared with.

The shards do not depend on generation's settings, so those of finished shards may have been edited since. Hence two
places warn: `prepare_shards` while it makes the shards, and the driver where they are finished.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from dreamtune.canvas import Canvas, canvas_warnings
from dreamtune.config import Config
from dreamtune.files import read_json
from dreamtune.workflow.plan import RESULTS, Plan
from dreamtune.workflow.verification import verify


def note_canvases(plan: Plan, config: Config, latest: Mapping[str, Mapping[str, Path]]) -> None:
    """Add the canvas of each experiment and generation setting to its shards' specification and smoke's, unhashed.

    Of the runs of one experiment (seeds, points of a grid) whose canvases are equal, the first alone is noted.

    Args:
        plan: has the shards and smoke runs of all experiments.
        config: the experiments.
        latest: version folders by experiment and name.
    """
    noted: set[str] = set()
    for name, experiment in config.experiments.items():
        train = experiment.train.model_dump()
        found = {
            f"{name}, {setting}": asdict(Canvas.of(train, generate.model_dump()))
            for setting, generate in experiment.generations().items()
        }
        for folder in (latest[name]["shards"], latest[name]["smoke"]):
            canvases = plan[folder.parent.name, folder.name].setdefault("canvases", {})
            for key, values in found.items():
                alike = (folder, config.points[name].experiment, key.rpartition(", ")[2], *values.items())
                if repr(alike) not in noted:
                    noted.add(repr(alike))
                    canvases[key] = values


def warnings_of_finished(plan: Plan) -> Iterator[str]:
    """Yield the warnings of all planned canvases whose shards are finished.

    Raises:
        UserError: the shards' audit.json is not what their manifest says.
    """
    for (stage, version), spec in plan.items():
        folder = RESULTS / stage / version
        if stage == "prepare_shards" and (folder / "manifest.json").exists():
            verify(folder, "audit.json")
            responses = read_json(folder / "audit.json")["response_tokens"]["train"]
            for name, values in spec["canvases"].items():
                yield from (f"{name}: {text}" for text in canvas_warnings(responses, Canvas(**values)))
