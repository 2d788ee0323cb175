"""What smoke says of a real run: its numbers are those that the run's own files hold, and full says nothing."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamtune.canvas import Canvas, compare_canvases
from dreamtune.readable import nats, percent
from dreamtune.settings.model import ModelConfig
from dreamtune.train import steps as training
from dreamtune.train.gate import fitting
from dreamtune.train.train import train_adapter
from tiny import settings
from training_runs import Train, read

pytest_plugins = "training_runs"  # its fixtures


def test_a_run_that_learns_is_described_by_its_own_numbers(
    base: ModelConfig, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "shards", tmp_path / "out"
    shutil.copytree(shards, data)
    out.mkdir()
    responses = {"p05": 5, "p95": 14, "max": 14}
    shown = {"main, greedy": Canvas(3, False, 8, 8, 0), "main, sampled": Canvas(3, False, 8, 8, 0)}
    (data / "audit.json").write_text(json.dumps({"canvases": compare_canvases(shown, responses)}))
    canvases = {name: asdict(canvas) for name, canvas in shown.items()}
    full = settings(epochs=20)
    train_adapter(settings(epochs=3), base, data, out, tmp_path / "work", None, full, canvases)
    summary = read(out, "training.json")
    words = summary["words"]
    assert f"smoke: {words}\n" in capsys.readouterr().err
    first, last = nats(summary["first_loss"]), nats(summary["last_loss"])
    assert f"from {first} to {last} over 18 steps (means of the first and the last 9)" in words
    validation = [nats(line["validation_nll"]) for line in summary["validation"]]
    assert f"from {validation[0]} to {validation[-1]}" in words
    assert f"has {percent(relative(out, base), 2)} of the norm of the frozen weights" in words
    assert words.count("training responses are longer than max_new_tokens = 8") == 1
    edited = {name: canvas | {"max_new_tokens": 9} for name, canvas in canvases.items()}
    assert fitting(edited, data) is None and fitting(canvases | {"other": edited["main, greedy"]}, data) is None
    assert "The full run's steps will take about" in words and summary["alarms"] == ["canvas"]


def relative(out: Path, base: ModelConfig) -> float:
    """Return the norm of the update, worked out in full from the adapter's file, relative to the base's weights."""
    factors = load_file(out / "adapter/adapter_model.safetensors")
    frozen = load_file(Path(base.path) / "model.safetensors")
    updates, weights = 0.0, 0.0
    for name, a in factors.items():
        if ".lora_A" in name:
            module = name.removeprefix("base_model.model.").partition(".lora_A")[0]
            updates += float((2 * factors[name.replace("lora_A", "lora_B")] @ a).square().sum())  # alpha / r = 8 / 4
            weights += float(frozen[f"{module}.weight"].square().sum())
    return float((updates / weights) ** 0.5)


def test_an_adapter_that_no_step_moves_raises_alarms(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "update", lambda run: run.optimizer.zero_grad())
    summary = read(train(epochs=1), "training.json")
    assert summary["alarms"] == ["loss", "adapter"]
    assert "the loss did not fall" in summary["words"] and "learned nothing (dead: model.layers.0" in summary["words"]


def test_only_smoke_speaks(train: Train) -> None:
    smoke = train("smoke", epochs=1)
    assert "words" not in read(train("full", smoke, epochs=1), "training.json")


def test_quantised_weights_count_as_they_are_multiplied_with() -> None:
    from bitsandbytes.nn import Linear4bit

    from dreamtune.canaries.update import squared_norm

    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 64, bias=False)
    packed = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    packed.load_state_dict(dense.state_dict())
    packed = packed.to("cpu")
    assert squared_norm(packed) == pytest.approx(squared_norm(dense), rel=0.05)
    assert squared_norm(dense) == pytest.approx(float(dense.weight.detach().square().sum()), rel=1e-5)
