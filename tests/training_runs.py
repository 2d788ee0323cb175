"""What the tests of training share: a tiny base model and shards, a function that trains, and readers of its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamtune.settings.model import ModelConfig
from dreamtune.train.train import train_adapter
from tiny import make_model, make_shards, settings


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return make_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


Train = Callable[..., Path]


@pytest.fixture
def train(base: ModelConfig, shards: Path, tmp_path: Path) -> Train:
    """Return a function that trains into a new folder; runs with the same `work` go on from each other."""
    return trainer(base, shards, tmp_path)


@pytest.fixture(scope="module")
def shared(base: ModelConfig, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that trains without interruption, with the same settings once; its folders are only read."""
    run, made = trainer(base, shards, tmp_path_factory.mktemp("shared")), {}

    def once(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = run(f"work-{len(made)}", **changes)
        return made[key]

    return once


def trainer(base: ModelConfig, shards: Path, folder: Path) -> Train:
    """Return a function that trains into new folders in `folder`."""

    def run(work: str = "work", gate: Path | None = None, model: ModelConfig = base, **changes: Any) -> Path:
        out = folder / f"out-{len(list(folder.glob('out-*')))}"
        out.mkdir()
        train_adapter(settings(**changes), model, shards, out, folder / work, gate)
        return out

    return run


def adapter(out: Path) -> bytes:
    return (out / "adapter/adapter_model.safetensors").read_bytes()


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]


def read(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name).read_text())


def steps(out: Path) -> list[int]:
    return [line["step"] for line in log(out) if "loss" in line]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out) if "loss" in line]
