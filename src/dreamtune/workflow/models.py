"""The checks of the experiments' models: while planning, or right after the download of a model from the hub."""

import json
from pathlib import Path
from typing import Any

from dreamtune.config import Config
from dreamtune.inputs.hub import cached_model
from dreamtune.inputs.model_check import check_model

CHECKED = ("path", "revision", "family", "mask_token", "attention")  # fields of section `model` that a check depends on


def distinct_models(config: Config) -> list[dict[str, Any]]:
    """Return the `CHECKED` fields of each model of a configuration, each combination once."""
    found = {tuple(getattr(e.model, name) for name in CHECKED): None for e in config.experiments.values()}
    return [dict(zip(CHECKED, values, strict=True)) for values in found]


def check_models(config: Config) -> None:
    """Check every model that is a local folder, or whole in the hub's cache; the others after their download.

    Raises:
        UserError: a model cannot be used; see `inputs.model_check.check_model`.
    """
    for model in distinct_models(config):
        folder = Path(model["path"]) if Path(model["path"]).is_dir() else None
        folder = folder or cached_model(model["path"], model["revision"])
        if folder:
            check_model(folder, model["family"], model["mask_token"], model["attention"])


def models_from(config: Config, source: str) -> list[str]:
    """Return the models of a configuration that come from a source, as `download.py --models` takes them.

    Args:
        config: the experiments.
        source: OWNER/NAME@REVISION, or the address of a data file, from which no model comes.
    """
    return [json.dumps(m) for m in distinct_models(config) if source == f"{m['path']}@{m['revision']}"]
