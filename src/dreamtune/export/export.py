"""Write finished runs into the files of MLflow, Weights & Biases or TensorBoard, without a network.

Each tracker's own client writes its files. A run is written once: one that is there already, by the version of its
report, is left as it is, and what an export that was killed left of one is written again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from dreamtune.errors import UserError
from dreamtune.export.events import Events
from dreamtune.export.mlflow_store import MlflowStore
from dreamtune.export.record import Record
from dreamtune.export.wandb_runs import WandbRuns
from dreamtune.writers import one_at_a_time


class Tracker(Protocol):
    """The files of a tracker in one folder."""

    def holds(self, record: Record) -> bool:
        """Return whether the run is there, as a whole."""

    def write(self, record: Record) -> None:
        """Write a run; remove first what is left of an earlier attempt."""

    def close(self) -> None:
        """End what the client has started."""


TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "mlflow": MlflowStore,
    "wandb": WandbRuns,
    "tensorboard": Events,
}
PACKAGES = {"mlflow": "mlflow-skinny sqlalchemy alembic", "wandb": "wandb", "tensorboard": "tensorboard"}


def export(records: Iterable[Record], to: str, out: Path, project: str) -> Iterator[str]:
    """Write runs into the files of a tracker; yield a line for each.

    Args:
        records: from `record.read_records`.
        to: one of TRACKERS.
        out: folder of the tracker's files.
        project: under which the tracker lists them; MLflow calls it an experiment.

    Raises:
        UserError: the tracker's client is not installed, or cannot write there.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with one_at_a_time(out), closing(TRACKERS[to](out.absolute(), project)) as tracker:
            for record in records:
                if tracker.holds(record):
                    yield f"{record.id}: is there already, and stays as it is"
                    continue
                tracker.write(record)
                yield f"{record.id}: {len(record.curve)} points, {len(record.figures)} figures, {record.verdict}"
    except ModuleNotFoundError as error:
        raise UserError(
            f"--to {to} needs the package {error.name}; install the client: pip install {PACKAGES[to]}"
        ) from None
