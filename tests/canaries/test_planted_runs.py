"""Faults in what a run starts from and in what its steps change, planted where the bug would sit.

`test_without_a_fault_...` are the same runs unbroken.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from dreamtune.errors import UserError
from dreamtune.model import loading as model
from dreamtune.objective.packing import Batch
from dreamtune.settings.lora import LoraSettings
from dreamtune.train import micro_batches
from dreamtune.train import steps as training
from planted import Plant, caught, checks, make_shards, train

pytest_plugins = "planted"  # its fixtures


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def honest(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return smoke and, behind its gate, a full run of 12 steps, both without a fault."""
    folder = tmp_path_factory.mktemp("honest")
    smoke = train(folder / "smoke", shards)
    return smoke, train(folder / "full", shards, gate=smoke, rows=96, max_steps=None)


def test_without_a_fault_training_passes_every_check(honest: tuple[Path, Path]) -> None:
    for run in honest:
        assert {name: check["value"] for name, check in checks(run).items() if check["passed"] is not True} == {}
        assert checks(run)["rows_aligned_first_window"]["low"] > 0.3  # nats, the lower end of its interval


# What training changes.


def test_a_dead_module(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """It is frozen by mistake; tests/canaries/test_adapter.py has other ways to die."""
    original = model.attach_lora

    def faulty(base: Any, lora: LoraSettings, seed: int) -> PeftModel:
        tuned = original(base, lora, seed)
        for name, weight in tuned.named_parameters():
            weight.requires_grad_("lora_" in name and "layers.1.self_attn.v_proj" not in name)
        return tuned

    plant(original, faulty)
    assert caught(tmp_path, shards) == {"all_modules_learn"}
    check = checks(tmp_path / "smoke")["all_modules_learn"]
    assert check["note"] == "dead: model.layers.1.self_attn.v_proj"


def test_an_exploding_gradient(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """One window's loss is multiplied; a warning names the module that felt it most."""
    original, calls = micro_batches.weighted_loss, 0

    def faulty(m: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += m.training
        loss, losses = original(m, batch)
        return loss * (1e4 if m.training and calls > 5 else 1), losses

    plant(original, faulty)
    check = checks(train(tmp_path / "run", shards, max_steps=6, micro_batch_tokens=2048))["gradients_steady"]
    assert check["passed"] is False and not check["hard"] and check["note"].startswith("largest in model.layers.")


# Where training starts.


def test_smokes_adapter_leaks_into_full(plant: Plant, honest: tuple[Path, Path], shards: Path, tmp_path: Path) -> None:
    smoke, _ = honest

    def faulty(base: Any, lora: LoraSettings, seed: int) -> PeftModel:
        return PeftModel.from_pretrained(base, str(smoke / "adapter"), is_trainable=True)

    plant(model.attach_lora, faulty)
    with pytest.raises(UserError, match=r"own canaries failed: starts_from_base_first_window \(\d"):
        train(tmp_path / "full", shards, gate=smoke)


def test_smokes_checkpoint_in_fulls_folder(honest: tuple[Path, Path], shards: Path, tmp_path: Path) -> None:
    """The other door by which smoke's weights could enter: what a run resumes from must be its own."""
    smoke, _ = honest
    with pytest.raises(UserError, match="belongs to other settings or data"):
        train(tmp_path / "full", shards, gate=smoke, work=smoke / "work", max_steps=4)


class Killed(BaseException):
    """Stands for a signal."""


def test_a_resumed_full_run_is_not_taken_for_a_leak(
    plant: Plant, honest: tuple[Path, Path], shards: Path, tmp_path: Path
) -> None:
    """Its adapter is not the base any more when it goes on, and that is no fault."""
    smoke, _ = honest
    options: dict[str, Any] = {"gate": smoke, "work": tmp_path / "work", "max_steps": 4, "checkpoint_steps": 1}
    with pytest.MonkeyPatch.context() as patch:

        def die(step: int, loss: float, grad_norm: float) -> None:
            if step == 3:
                raise Killed

        patch.setattr(training, "stop_unless_finite", die)
        with pytest.raises(Killed):
            train(tmp_path / "killed", shards, **options)
    resumed = train(tmp_path / "resumed", shards, **options)
    assert json.loads((resumed / "training.json").read_text())["resumed_from"] == [2]
    assert checks(resumed)["starts_from_base_first_window"]["value"] == 0.0
    assert json.loads((resumed / "gate.json").read_text())["passed"]
