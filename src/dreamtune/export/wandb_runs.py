"""Runs in the offline format of Weights & Biases; `wandb sync OUT/wandb/offline-run-*` uploads them, when asked to.

The client starts a process of its own, wandb-core, and talks to it through a Unix socket; offline, neither of them
opens a connection. Attached files are copied to OUT/wandb-data, whose absolute path the run holds, so a folder that is
moved before it is uploaded loses them.
"""

import glob
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamtune.export.record import Point, Record

DONE = "exported"  # file in a run's folder, written last
LONGEST_TAG = 64


class WandbRuns:
    """Folders OUT/wandb/offline-run-TIME-ID, one for each run.

    Args:
        out: absolute path of the folder.
        project: name of the project.
    """

    def __init__(self, out: Path, project: str) -> None:
        folders = {f"WANDB_{name.upper()}_DIR": str(out / f"wandb-{name}") for name in ("data", "cache", "config")}
        os.environ.update(folders | {"WANDB_ERROR_REPORTING": "false"})  # before the client is imported
        import wandb  # the extra `wandb`

        self.wandb, self.out, self.project = wandb, out, project
        # Without what the client would note of this machine, which need not be the one that trained.
        self.settings = wandb.Settings(
            silent=True,
            host="",
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )

    def close(self) -> None:
        """Stop wandb-core."""
        self.wandb.teardown()

    def holds(self, record: Record) -> bool:
        """Return whether a folder of this id was finished."""
        return any((folder / DONE).exists() for folder in self._folders(record))

    def write(self, record: Record) -> None:
        """Write a run; its folder holds the file DONE only once all of it is there."""
        for left in self._folders(record):
            shutil.rmtree(left)
        with self.wandb.init(
            dir=self.out,
            mode="offline",
            project=self.project,
            id=record.id,
            name=record.name,
            group=record.group,
            job_type=record.kind,
            tags=[record.verdict[:LONGEST_TAG]],
            notes=record.sentence,
            config=nested(record.settings) | {"dreamtune": record.tags | {"verdict": record.verdict}},
            settings=self.settings,
        ) as run:
            for step, at, values in rows_of(record.curve):
                run.log(values | {"_timestamp": at}, step=step)
            run.summary.update(record.figures)
            attached = self.wandb.Artifact(record.id, type=record.kind)
            for file in record.files:
                attached.add_file(str(file))
            run.log_artifact(attached)
        for folder in self._folders(record):
            (folder / DONE).touch()

    def _folders(self, record: Record) -> list[Path]:
        return list(self.out.glob(f"wandb/offline-run-*-{glob.escape(record.id)}"))


def rows_of(curve: list[Point]) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yield step, seconds since 1970 and values by name, once for each step: W&B takes a step only once.

    >>> curve = [Point("loss", 5, 1.0, 9.0), Point("lr", 5, 0.1, 9.0), Point("loss", 7, 0.5, 12.0)]
    >>> list(rows_of(curve))
    [(5, 9.0, {'loss': 1.0, 'lr': 0.1}), (7, 12.0, {'loss': 0.5})]
    """
    rows: dict[int, tuple[float, dict[str, float]]] = {}
    for point in curve:
        rows.setdefault(point.step, (point.at, {}))[1][point.name] = point.value
    yield from ((step, *rows[step]) for step in sorted(rows))


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name as mappings in mappings, as W&B wants them.

    >>> nested({"train.lora.rank": 16, "train.epochs": 3})
    {'train': {'lora': {'rank': 16}, 'epochs': 3}}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return found
