"""Runs as TensorBoard's events, also of trainings that wrote none (`train.tensorboard`): `tensorboard --logdir OUT`."""

import json
from pathlib import Path
from typing import Any

from dreamtune.export.record import Record
from dreamtune.workflow.scratch import private_folder


class Events:
    """Folders OUT/PROJECT/ID, one for each run.

    Args:
        out: absolute path of the folder.
        project: name of the folder in it.
    """

    def __init__(self, out: Path, project: str) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.writer, self.folder = SummaryWriter, out / project

    def close(self) -> None:
        """Nothing is left open."""

    def holds(self, record: Record) -> bool:
        """Return whether the run's folder is there: it gets its name last."""
        return (self.folder / record.id).exists()

    def write(self, record: Record) -> None:
        """Write a run: curves, final figures at the last step, settings (the tab HPARAMS), and texts."""
        private = private_folder(self.folder, record.id)
        last = max((point.step for point in record.curve), default=0)
        with self.writer(str(private)) as events:
            for point in record.curve:
                events.add_scalar(point.name, point.value, point.step, point.at)
            for name, text in (record.tags | {"verdict": record.verdict, "sentence": record.sentence}).items():
                events.add_text(name, text, last, record.finished)
            settings = {name: plain(value) for name, value in record.settings.items()}
            events.add_hparams(settings, record.figures, run_name=".", global_step=last)
        private.rename(self.folder / record.id)


def plain(value: Any) -> str | int | float | bool:
    """Return a setting as TensorBoard takes it: a number, a truth value, or text.

    >>> plain(16), plain(None), plain(["q_proj"])
    (16, 'null', '["q_proj"]')
    """
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
