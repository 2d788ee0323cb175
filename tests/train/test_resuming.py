"""Going on after a kill, with a second writer beside it, and in two processes: the same adapter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import warm
from conftest import ROOT
from dreamtune.digests import sha256_file
from dreamtune.errors import UserError
from dreamtune.settings.model import ModelConfig
from dreamtune.train import run as runs
from dreamtune.train import steps as training
from dreamtune.train.train import train_adapter
from dreamtune.writers import writer_name
from tiny import make_shards, settings
from training_runs import Train, adapter, log, losses, read, steps

pytest_plugins = "training_runs"  # its fixtures


class Killed(BaseException):
    """Stands for a signal: nothing in the library may catch it."""


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training.stop_unless_finite

    def die(at: int, loss: float, grad_norm: float) -> None:
        original(at, loss, grad_norm)
        if at == step + 1:
            raise Killed

    monkeypatch.setattr(training, "stop_unless_finite", die)


@pytest.mark.parametrize("dies_after", [1, 5, 6, 11])
@pytest.mark.parametrize("log_every", [1, 5])
def test_resumed_is_uninterrupted(
    train: Train, shared: Train, monkeypatch: pytest.MonkeyPatch, dies_after: int, log_every: int
) -> None:
    """With dropout, tails and moments of the optimiser, to the bit; the log has each step once."""
    whole = shared(log_every=log_every)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(dies_after, patch)
        train("killed", checkpoint_steps=2, log_every=log_every)
    resumed = train("killed", checkpoint_steps=2, log_every=log_every)
    assert adapter(resumed) == adapter(whole)
    untimed = ("step", "epoch", "loss", "elbo", "lr", "grad_norm", "tokens", "validation_nll")
    assert [{k: line.get(k) for k in untimed} for line in log(resumed)] == [
        {k: line.get(k) for k in untimed} for line in log(whole)
    ]
    from_step = dies_after if dies_after == 6 else 2 * (dies_after // 2)  # an epoch ends at 6
    assert read(resumed, "training.json")["resumed_from"] == ([from_step] if from_step else [])


def test_resumed_is_uninterrupted_in_nf4(train: Train, base: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    nf4 = base.model_copy(update={"quantization": "nf4", "dtype": "bfloat16"})
    short: dict[str, Any] = {"model": nf4, "complementary": True, "max_steps": 4, "checkpoint_steps": 2}
    whole = train("whole", **short)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(3, patch)
        train("killed", **short)
    resumed = train("killed", **short)
    assert adapter(resumed) == adapter(whole) and read(resumed, "training.json")["resumed_from"] == [2]


@pytest.mark.parametrize(
    ("changes", "bounded"),
    [
        ({"mask_counts": "exact", "complementary": True, "rate_draws": "per_document", "rate_density": [1, 2]}, True),
        ({"mask_block": 4, "complementary": True, "pairs": "mirror", "tail_masks": "together"}, False),
    ],
    ids=["exact pairs", "blocks"],
)
def test_resumed_is_uninterrupted_however_masks_are_drawn(
    train: Train, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], bounded: bool
) -> None:
    """And the log has a bound only where the masks estimate it."""
    whole = train("whole", **changes)
    assert read(whole, "gate.json")["passed"]
    assert all((line["elbo"] is not None) == bounded for line in log(whole) if "loss" in line)
    assert all(line["validation_nll"] > 0 for line in log(whole) if "validation_nll" in line)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(8, patch)
        train("killed", checkpoint_steps=3, **changes)
    assert adapter(train("killed", checkpoint_steps=3, **changes)) == adapter(whole)


def test_resumed_twice_and_at_the_very_end(
    train: Train, shared: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shared(log_every=1)
    for dies_after in (3, 8):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(dies_after, patch)
            train("killed", checkpoint_steps=1)
    last = train("killed", checkpoint_steps=1)
    again = train("killed", checkpoint_steps=1)  # every step is done: only the output is made anew
    assert adapter(whole) == adapter(last) == adapter(again)
    assert steps(again) == list(range(1, 13))
    assert read(again, "training.json")["resumed_from"] == [3, 8, 12]
    assert read(again, "training.json")["last_loss"] == read(whole, "training.json")["last_loss"]
    assert read(again, "gate.json")["passed"]
    kept = sorted(path.name for path in (tmp_path / "killed/checkpoints").iterdir())
    assert kept == ["step-000011", "step-000012"]


def test_a_damaged_checkpoint_is_passed_over(
    train: Train, shared: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(5, patch)
        train("killed", checkpoint_steps=2)
    (tmp_path / "killed/checkpoints/step-000004/optimizer.pt").write_bytes(b"x")
    resumed = train("killed", checkpoint_steps=2)
    assert read(resumed, "training.json")["resumed_from"] == [2]
    assert adapter(resumed) == adapter(shared(log_every=1))


def test_nan_in_a_checkpoint_ends_the_run_with_its_name(train: Train, tmp_path: Path) -> None:
    train(max_steps=2)
    folder = tmp_path / "work/checkpoints/step-000002"
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    name = next(name for name in tensors if "layers.0.mlp.up_proj.lora_A" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "adapter/adapter_model.safetensors", {"format": "pt"})
    sums = json.loads((folder / "checksums.json").read_text())
    sums["adapter/adapter_model.safetensors"] = sha256_file(folder / "adapter/adapter_model.safetensors")
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj\.lora_A\.weight in \S*step-000002 is not finite"):
        train(max_steps=2)


def test_half_written_checkpoints_go_before_anything_is_written(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a disk that they fill fails every further attempt."""
    place, number, start = writer_name().split("-")
    left = tmp_path / f"work/checkpoints/.step-000009.{place}-{number}-{int(start) + 1}.aa"
    living = tmp_path / f"work/checkpoints/.step-000009.{writer_name()}.bb"
    too_many = [tmp_path / f"work/checkpoints/step-{step:06d}" for step in (1, 2, 3)]  # killed before it deleted one
    for folder in (left, living, *too_many):
        folder.mkdir(parents=True)
    seen: list[bool] = []
    real = runs.load
    monkeypatch.setattr(
        runs, "load", lambda model: (seen.extend(path.exists() for path in (left, *too_many)), real(model))[1]
    )
    train(max_steps=1)
    assert seen == [False, False, True, True] and living.exists()


def test_checkpoints_by_the_clock(train: Train, tmp_path: Path) -> None:
    train(checkpoint_minutes=1e-9, keep_checkpoints=100)
    assert len(list((tmp_path / "work/checkpoints").iterdir())) == 12
    train("rare", keep_checkpoints=100)
    assert sorted(p.name for p in (tmp_path / "rare/checkpoints").iterdir()) == ["step-000006", "step-000012"]


def test_checkpoints_of_other_settings_are_refused(train: Train) -> None:
    train(max_steps=2)
    with pytest.raises(UserError, match="other settings"):
        train(learning_rate=1e-3)


CHILD = """
import sys
from pathlib import Path
from dreamtune.train.train import train_adapter
from tiny import settings
from dreamtune.settings.model import ModelConfig
base, shards, out, work, epochs = sys.argv[1:]
model = ModelConfig(path=base, quantization="none", dtype="float32", device="cpu", threads=1)
Path(out).mkdir(exist_ok=True)
train_adapter(settings(epochs=int(epochs), checkpoint_steps=1), model, Path(shards), Path(out), Path(work))
"""


def child(
    base: ModelConfig, shards: Path, out: Path, work: Path, epochs: int, *launcher: str
) -> subprocess.Popen[bytes]:
    script = work.parent / "scripts/child.py"  # of a folder with this name, warm Pythons run what there is
    script.parent.mkdir(exist_ok=True)
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PYTHON_EXEC": warm.python()}
    command = [sys.executable if launcher else warm.python(), *launcher, str(script)]
    command += [base.path, str(shards), str(out), str(work), str(epochs)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_sigkill_and_two_writers(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    """One real process is killed; then two run at once in its folder, as after the death of their scheduler."""
    epochs, work = 4, tmp_path / "work"
    victim = child(base, shards, tmp_path / "victim", work, epochs)
    end = time.monotonic() + 120
    while not list((work / "checkpoints").glob("step-*")):
        assert victim.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    writers = [child(base, shards, tmp_path / name, work, epochs) for name in "ab"]
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0]
    whole = tmp_path / "whole"
    whole.mkdir()
    train_adapter(settings(epochs=epochs), base, shards, whole, tmp_path / "other")
    for name in "ab":
        assert adapter(tmp_path / name) == adapter(whole)
        assert steps(tmp_path / name) == list(range(1, 6 * epochs + 1))
    assert not (tmp_path / "victim/training.json").exists()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(base: ModelConfig, tmp_path: Path) -> None:
    """Under torchrun, on the CPU: the same windows, so the same losses but for rounding and dropout's draws.

    The validation rows make one batch, so that the second process has none and must still take part in the sum.
    """
    shards = make_shards(tmp_path / "shards", validation=2)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    both = child(base, shards, tmp_path / "two", tmp_path / "work", 1, *launcher)
    assert both.wait(timeout=240) == 0
    one = tmp_path / "one"
    one.mkdir()
    train_adapter(settings(epochs=1), base, shards, one, tmp_path / "other")
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
    assert log(tmp_path / "two")[0]["validation_nll"] == pytest.approx(log(one)[0]["validation_nll"], rel=1e-6)
