"""Training on several sources: the log tells their losses apart, and nothing else changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_split
from dreamtune.train.train import train_adapter
from tiny import settings
from training_runs import adapter, log, losses, read

pytest_plugins = "training_runs"  # its fixtures


def test_losses_of_sources_add_up_to_the_loss_of_the_same_training(
    train: Callable[..., Path], base: ModelConfig, shards: Path, tmp_path: Path
) -> None:
    plain = train(max_steps=3)
    mixed = tmp_path / "mixed"
    shutil.copytree(shards, mixed)
    meta = json.loads((mixed / "shards.json").read_text())
    ids = sorted(row["example_id"] for row in read_split(shards, "train"))
    sources = [{"name": "low", "first_id": 0}, {"name": "high", "first_id": ids[len(ids) // 2]}]
    (mixed / "shards.json").write_text(json.dumps(meta | {"sources": sources}))
    out = tmp_path / "of-sources"
    out.mkdir()
    train_adapter(settings(max_steps=3), base, mixed, out, tmp_path / "other")
    assert adapter(out) == adapter(plain) and losses(out) == losses(plain)
    lines = [line for line in log(out) if "loss" in line]
    assert all(line["loss/low"] is not None and line["loss/high"] is not None for line in lines)
    found = {source["name"]: source for source in read(out, "training.json")["sources"]}
    assert list(found) == ["low", "high"]
    for line in lines:
        low, high = sorted((line["loss/low"], line["loss/high"]))
        assert low - 1e-6 <= line["loss"] <= high + 1e-6
    assert all(source["loss_tokens"] > 0 and source["last_loss"] > 0 for source in found.values())
    assert "sources" not in read(plain, "training.json")
