"""The smoke run as a gate: whether full may start, and what it will take."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute
import torch

from dreamtune import canaries
from dreamtune.batching import TrainingWindows
from dreamtune.errors import UserError
from dreamtune.settings.train import TrainConfig
from dreamtune.training_log import GIB, History


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
    message = f"the smoke run failed its gate: {'; '.join(canaries.failed(found['checks']))}"
    if on_failed_gate == "stop":
        raise UserError(f"{message}. Mend that, or set train.on_failed_gate to continue for a run judged invalid")
    print(f"{message}; going on as train.on_failed_gate asks, the verdict can only be invalid", file=sys.stderr)
    return False


def predict_full(
    windows: TrainingWindows, history: History, full: TrainConfig | None, loaded_gib: float
) -> dict[str, Any]:
    """Predict the full run from this one: minutes by its tokens, memory by its longest row; null if not asked."""
    if full is None:
        return {"predicted_full_steps": None, "predicted_full_minutes": None, "predicted_full_memory_gib": None}
    planned = TrainingWindows(windows.split, {"tokenizer": windows.ids, "max_tokens": windows.max_tokens}, full)
    mine, theirs = _lengths(windows), _lengths(planned)
    halves = 2 if full.complementary and full.objective != "copy" else 1
    documents = min(planned.total * full.global_batch, planned.rows * full.epochs)
    tokens = halves * documents * (float(theirs.mean()) + full.max_tail / 2)
    # Weights stay, activations grow with the longest row; attention's own memory does not grow faster (SDPA).
    growth = max(theirs.max() / mine.max(), 1.0)
    return {
        "predicted_full_steps": planned.total,
        "predicted_full_minutes": round(history.summary()["seconds_per_token"] * tokens / 60, 3),
        "predicted_full_memory_gib": round(loaded_gib + (history.peak_gib - loaded_gib) * float(growth), 4),
    }


def _lengths(windows: TrainingWindows) -> Any:
    """Return the stored length in tokens of each row that is trained on, [rows]."""
    column = windows.split.data.column("input_ids").slice(0, windows.rows)
    return pyarrow.compute.list_value_length(column).to_numpy()


def device_gib() -> float:
    """Return the memory of the GPU, or of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
