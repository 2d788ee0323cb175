"""The smoke run as a gate: whether full may start, and what it will take."""

import sys
from pathlib import Path
from typing import Any

from dreamtune.checks import failed
from dreamtune.device.memory import device_gib
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.training import GATE_FILE, TRAINING_FILE
from dreamtune.prediction import slowdown, training_tokens
from dreamtune.settings.train import TrainConfig
from dreamtune.train.micro_batch_plan import MicroBatchPlan
from dreamtune.train.windows import Share, TrainingWindows


def open_gate(gate: Path | None, on_failed_gate: str) -> bool | None:
    """Return whether smoke passed; None if there is no gate.

    Raises:
        UserError: it did not pass and `on_failed_gate` is "stop", or there is no gate.json.
    """
    if gate is None:
        return None
    path = gate / GATE_FILE
    if not path.exists():
        raise UserError(f"{gate} holds no gate.json; the smoke run must finish before the full run starts")
    found = read_json(path)
    if found["passed"]:
        return True
    message = f"the smoke run failed its gate: {'; '.join(failed(found['checks']))}"
    if on_failed_gate == "stop":
        raise UserError(f"{message}. Mend that, or set train.on_failed_gate to continue for a run judged invalid")
    print(f"{message}; going on as train.on_failed_gate asks, the verdict can only be invalid", file=sys.stderr)
    return False


def announce_prediction(gate: Path, windows: TrainingWindows, share: Share, plan: MicroBatchPlan) -> dict[str, float]:
    """Return `predict`, and say it.

    Raises:
        UserError: more memory than the device has, unless `on_failed_gate` is "continue".
    """
    predicted = predict(gate, windows, ran_as(plan, windows.train, share.device.type), share.processes)
    need, there = predicted.get("predicted_memory_gib", 0.0), device_gib(share.device)
    if share.process == 0:
        said = f"{predicted['predicted_minutes']:.1f} minutes and {need:.2f} GiB" if predicted else "nothing"
        why = "" if predicted else ", as it ran by another plan or on another device"
        print(f"smoke predicts {said} for {windows.total} steps{why}", file=sys.stderr)
    if need > there and windows.train.on_failed_gate == "stop":
        raise UserError(
            f"smoke predicts that this run needs {need:.1f} GiB, and {there:.1f} GiB are there; set "
            "train.memory_gib to what this GPU has (a new plan is made for it) or take a larger one"
        )
    return predicted


def predict(gate: Path, windows: TrainingWindows, ran: dict[str, Any], processes: int) -> dict[str, float]:
    """Predict a run from what smoke measured: minutes by its tokens and processes, memory by its rehearsal.

    The rehearsal took the heaviest pass that the split can give under the plan, and this run goes by smoke's plan.

    Args:
        gate: smoke's output; its training.json says seconds per token and the memory at the peak.
        windows: of the run that is predicted.
        ran: plan and device of the run that is predicted, see `ran_as`.
        processes: that share its windows.

    Returns:
        predicted_minutes and predicted_memory_gib; {} where smoke ran in another way, so that no rate carries over.
    """
    smoke = read_json(gate / TRAINING_FILE)
    if smoke["ran_as"] != ran:
        return {}
    train, length = windows.train, float(windows.lengths[: windows.rows].mean())
    each_s = smoke["seconds_per_token"] * slowdown(smoke, processes)
    return {
        "predicted_minutes": round(each_s * training_tokens(train, windows.rows, length) / 60, 3),
        "predicted_memory_gib": smoke["peak_memory_gib"],
    }


def smoke_plan(gate: Path | None, train: TrainConfig, share: Share) -> MicroBatchPlan | None:
    """Return the plan that smoke ran by and verified.

    None if that was on another device or by another number of processes, or if `train` asks otherwise.
    """
    if gate is None:
        return None
    smoke = read_json(gate / TRAINING_FILE)
    ran = smoke["ran_as"]
    plan = MicroBatchPlan(**{name: value for name, value in ran.items() if name not in ("device", "memory_gib")})
    same = ran["device"] == share.device.type and ran["memory_gib"] == train.memory_gib
    same = same and smoke["processes"] == share.processes
    return plan if same and plan.is_asked_for(train) else None


def ran_as(plan: MicroBatchPlan, train: TrainConfig, device: str) -> dict[str, Any]:
    """Return what does not enter a run's result and does decide its speed and memory."""
    return plan.to_json() | {"device": device, "memory_gib": train.memory_gib}
