"""Training on several sources: the log tells their losses apart, and nothing else changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_split
from dreamtune.train.train import train_adapter
from tests.train.test_resuming import Killed, kill_after
from tiny import settings
from training_runs import adapter, log, losses, read

pytest_plugins = "training_runs"  # its fixtures


def two_sources(shards: Path, folder: Path) -> Path:
    """Return shards of the same rows, the first half of which comes from `low` and the second from `high`."""
    shutil.copytree(shards, folder)
    meta = json.loads((folder / "shards.json").read_text())
    ids = sorted(row["example_id"] for row in read_split(shards, "train"))
    sources = [{"name": "low", "first_id": 0}, {"name": "high", "first_id": ids[len(ids) // 2]}]
    (folder / "shards.json").write_text(json.dumps(meta | {"sources": sources}))
    return folder


def test_losses_of_sources_add_up_to_the_loss_of_the_same_training(
    train: Callable[..., Path], base: ModelConfig, shards: Path, tmp_path: Path
) -> None:
    plain = train(max_steps=3)
    mixed = two_sources(shards, tmp_path / "mixed")
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


@pytest.mark.parametrize("dies_after", [1, 5, 6])
def test_a_resumed_training_has_the_losses_of_its_sources_from_the_beginning(
    base: ModelConfig, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    mixed = two_sources(shards, tmp_path / "mixed")

    def run(work: str) -> Path:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        train_adapter(settings(max_steps=8, checkpoint_steps=2), base, mixed, out, tmp_path / work)
        return out

    whole = run("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(dies_after, patch)
        run("killed")
    resumed = run("killed")
    assert adapter(resumed) == adapter(whole)
    assert read(resumed, "training.json")["sources"] == read(whole, "training.json")["sources"]
    assert read(resumed, "training.json")["resumed_from"] == ([2 * (dies_after // 2)] if dies_after > 1 else [])
    named = ("step", "loss", "loss/low", "loss/high")
    lines = [[line.get(name) for name in named] for line in log(whole)]
    assert [[line.get(name) for name in named] for line in log(resumed)] == lines
