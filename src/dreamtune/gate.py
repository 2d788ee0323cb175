"""The smoke run as a gate: whether full may start, and what it will take."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute

from dreamtune.batching import Share, TrainingWindows
from dreamtune.checks import failed
from dreamtune.errors import UserError
from dreamtune.memory import RESERVE_GIB, device_gib
from dreamtune.settings.train import TrainConfig


def open_gate(gate: Path | None, on_failed_gate: str) -> bool | None:
    """Return whether smoke passed; None if there is no gate.

    Raises:
        UserError: it did not pass and `on_failed_gate` is "stop", or there is no gate.json.
    """
    if gate is None:
        return None
    path = gate / "gate.json"
    if not path.exists():
        raise UserError(f"{gate} holds no gate.json; the smoke run must finish before the full run starts")
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["passed"]:
        return True
    message = f"the smoke run failed its gate: {'; '.join(failed(found['checks']))}"
    if on_failed_gate == "stop":
        raise UserError(f"{message}. Mend that, or set train.on_failed_gate to continue for a run judged invalid")
    print(f"{message}; going on as train.on_failed_gate asks, the verdict can only be invalid", file=sys.stderr)
    return False


def announce_prediction(gate: Path, windows: TrainingWindows, share: Share) -> dict[str, float]:
    """Return `predict`, and say it.

    Raises:
        UserError: more memory than the device has, unless `on_failed_gate` is "continue".
    """
    predicted = predict(gate, windows, share.device.type)
    need, there = predicted.get("predicted_memory_gib", 0.0), device_gib(share.device) - RESERVE_GIB
    if share.process == 0:
        said = f"{predicted['predicted_minutes']:.1f} minutes and {need:.2f} GiB" if predicted else "nothing"
        why = "" if predicted else ", as it ran with another micro_batch, checkpointing or device"
        print(f"smoke predicts {said} for {windows.total} steps{why}", file=sys.stderr)
    if need > there and windows.train.on_failed_gate == "stop":
        raise UserError(
            f"smoke predicts that this run needs {need:.1f} GiB, and {there:.1f} GiB are there; lower "
            "train.micro_batch or set train.gradient_checkpointing to true (neither changes the objective)"
        )
    return predicted


def predict(gate: Path, windows: TrainingWindows, device: str) -> dict[str, float]:
    """Predict a run from what smoke measured: minutes by its tokens, memory by its longest row.

    Args:
        gate: smoke's output; its training.json says seconds per token, memory at rest and at the peak.
        windows: of the run that is predicted.
        device: type of the device it runs on, "cpu" or "cuda".

    Returns:
        predicted_minutes and predicted_memory_gib; {} where smoke ran in another way, so that no rate carries over.
    """
    smoke = json.loads((gate / "training.json").read_text(encoding="utf-8"))
    train, lengths = windows.train, row_lengths(windows)
    if smoke["ran_as"] != ran_as(train, device):
        return {}
    halves = 2 if train.complementary and train.objective != "copy" else 1
    documents = min(windows.total * train.global_batch, windows.rows * train.epochs)
    tokens = halves * documents * (float(lengths.mean()) + train.max_tail / 2)
    # Weights stay, activations grow with the longest row; attention's own memory does not grow faster (SDPA).
    growth = max(float(lengths.max()) / smoke["longest_row"], 1.0)
    activations = max(smoke["peak_memory_gib"] - smoke["loaded_gib"], 0.0)
    return {
        "predicted_minutes": round(smoke["seconds_per_token"] * tokens / 60, 3),
        "predicted_memory_gib": round(smoke["loaded_gib"] + activations * growth, 4),
    }


def ran_as(train: TrainConfig, device: str) -> dict[str, Any]:
    """Return what does not enter a run's result and does decide its speed and memory."""
    return {
        "micro_batch": train.micro_batch,
        "gradient_checkpointing": train.gradient_checkpointing,
        "device": device,
    }


def row_lengths(windows: TrainingWindows) -> Any:
    """Return the stored length in tokens of each row that is trained on, [rows]."""
    column = windows.split.data.column("input_ids").slice(0, windows.rows)
    return pyarrow.compute.list_value_length(column).to_numpy()
