"""Runs in a SQLite database that MLflow reads: `mlflow server --backend-store-uri sqlite:///OUT/mlflow.db`.

SQLite is what MLflow's documentation recommends and takes by default since 3.7; its folders of text files are no longer
developed. Attached files lie in OUT/artifacts, under their absolute path in the database.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.export.record import Record

DATABASE = "mlflow.db"
# Before the client is imported: it reports its use to its makers, in a thread of its own, unless it is told not to.
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
ID = "dreamtune.id"
MOST_METRICS, MOST_OTHERS = 1000, 100  # in one call
LONGEST = 6000  # characters of a parameter, and 8000 of a tag
FORBIDDEN = re.compile(r"[^\w./: -]")  # in names


class MlflowStore:
    """An experiment in OUT/mlflow.db, which is made where there is none.

    Args:
        out: absolute path of the folder.
        project: name of the experiment.

    Raises:
        UserError: the folder's path has a question mark, behind which a database's address has no path any more.
    """

    def __init__(self, out: Path, project: str) -> None:
        if "?" in str(out):
            raise UserError(f"MLflow cannot address a database in {out}; give --out a path without a question mark")
        os.environ.update(SILENT)
        from mlflow import entities, tracking  # the extra `mlflow`

        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.entities = entities
        uri = f"sqlite:///{out / DATABASE}"
        self.client = tracking.MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = self.client.get_experiment_by_name(project)
        place = (out / "artifacts").as_uri()
        self.experiment = found.experiment_id if found else self.client.create_experiment(project, place)

    def close(self) -> None:
        """Nothing is left open."""

    def holds(self, record: Record) -> bool:
        """Return whether a finished run of this id is there."""
        return any(run.info.status == "FINISHED" for run in self._runs(record))

    def write(self, record: Record) -> None:
        """Write a run; its status is FINISHED only once all of it is there."""
        for left in self._runs(record):
            self.client.delete_run(left.info.run_id)
        tags = {ID: record.id, "verdict": record.verdict, "kind": record.kind, "mlflow.note.content": record.sentence}
        tags |= record.tags
        started, finished = round(1000 * record.started), round(1000 * record.finished)
        run = self.client.create_run(self.experiment, started, {ID: record.id}, record.name).info.run_id
        param, tag, metric = self.entities.Param, self.entities.RunTag, self.entities.Metric
        params = [param(_name(name), _text(value)) for name, value in record.settings.items()]
        texts = [tag(_name(name), value[:LONGEST]) for name, value in tags.items()]
        curve = [metric(_name(p.name), p.value, round(1000 * p.at), p.step) for p in record.curve]
        curve += [metric(_name(name), value, finished, 0) for name, value in record.figures.items()]
        self._send(run, "params", params, MOST_OTHERS)
        self._send(run, "tags", texts, MOST_OTHERS)
        self._send(run, "metrics", curve, MOST_METRICS)
        for file in record.files:
            self.client.log_artifact(run, str(file))
        self.client.set_terminated(run, "FINISHED", finished)

    def _runs(self, record: Record) -> Any:
        """Return the runs of this id, whole or not, that nobody has deleted."""
        return self.client.search_runs([self.experiment], f"tags.`{ID}` = '{record.id}'")

    def _send(self, run: str, kind: str, values: Sequence[Any], most: int) -> None:
        for start in range(0, len(values), most):
            self.client.log_batch(run, **{kind: values[start : start + most]})


def _name(name: str) -> str:
    """Return a name that MLflow takes: of letters, digits and `_-. :/` only.

    >>> _name("loss/web, 2024")
    'loss/web_ 2024'
    """
    return FORBIDDEN.sub("_", name)


def _text(value: Any) -> str:
    """Return a setting as text, JSON where it is none; a longer one than MLflow takes stands whole in summary.json."""
    return (value if isinstance(value, str) else json.dumps(value))[:LONGEST]
