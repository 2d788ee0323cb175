"""The changes that the runs smoke and full of a training make to the section `train`."""

from dreamtune.settings.base import MANY, Section, result, runtime
from dreamtune.settings.train import TrainConfig


class RunOverrides(Section):
    """The settings of `train` that a run (`smoke` or `full`) overrides; null keeps the value of `train`."""

    rows: int | None = result(None, "train only on this many rows, the first ones; null as in train", ge=1, le=MANY)
    epochs: int | None = result(None, "times that each row is trained on; null as in train", ge=1, le=MANY)
    max_steps: int | None = result(None, "stop after this many optimiser steps; null as in train", ge=1, le=MANY)
    log_every: int | None = runtime(None, "optimiser steps between log lines; null as in train", ge=1, le=MANY)

    def applied_to(self, train: TrainConfig) -> TrainConfig:
        """Return `train` with the values that this run overrides."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        if "rows" in given:  # these are the first rows, and `epochs` counts passes over them
            given |= {name: TrainConfig.model_fields[name].default for name in ("rows_by", "rows_seed", "epochs_of")}
        return train.model_copy(update=given)


class SmokeOverrides(RunOverrides):
    """The settings of `train` that the smoke run overrides: by default 64 rows for one epoch, each step logged."""

    rows: int | None = result(64, "train only on this many rows, the first ones; null as in train", ge=1, le=MANY)
    epochs: int | None = result(1, "times that each row is trained on; null as in train", ge=1, le=MANY)
    log_every: int | None = runtime(1, "optimiser steps between log lines; null as in train", ge=1, le=MANY)
