"""The smoke run as a gate: whether the full run may start, and how much time and memory it will take."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.checks import Check, failed
from dreamtune.device.memory import device_gib
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.halving import HALVE_FILE
from dreamtune.formats.shards import AUDIT_FILE
from dreamtune.formats.training import GATE_FILE, RANGE_TEST_FILE, TRAINING_FILE
from dreamtune.prediction import slowdown, training_tokens
from dreamtune.settings.rate import FIND
from dreamtune.settings.train import TrainConfig
from dreamtune.smoke.words import Seen, in_words
from dreamtune.train.log import History, ends
from dreamtune.train.micro_batch_plan import MicroBatchPlan
from dreamtune.train.windows import Share, TrainingWindows


def open_gate(gate: Path | None, on_failed_gate: str) -> bool | None:
    """Return whether the smoke run passed its checks; None for smoke itself, which has no gate.

    Args:
        gate: smoke's output folder, or None.
        on_failed_gate: "stop" or "continue".

    Raises:
        UserError: smoke failed and `on_failed_gate` is "stop", or its folder holds no gate.json.
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


def stop_if_decided(before: Path | None, decision: Path | None) -> None:
    """End a run that was stopped after the rung before it.

    Args:
        before: output of that rung; None if there is none.
        decision: output of halve after it.

    Raises:
        UserError: it was stopped; the line is the decision's reason.
    """
    if before and decision and (reason := read_json(decision / HALVE_FILE)["rungs"][before.as_posix()]):
        raise UserError(reason)


def with_smoke_rate(train: TrainConfig, gate: Path | None) -> TrainConfig:
    """Return the settings with the learning rate that smoke's range test chose, if they ask for one and smoke is done.

    Raises:
        UserError: smoke's folder holds no range test.
    """
    if gate is None or train.learning_rate != FIND:
        return train
    path = gate / RANGE_TEST_FILE
    if not path.exists():
        raise UserError(f"{gate} holds no {RANGE_TEST_FILE}, from which train.learning_rate find takes its rate")
    return train.model_copy(update={"learning_rate": read_json(path)["chosen"]})


def announce_prediction(gate: Path, windows: TrainingWindows, share: Share, plan: MicroBatchPlan) -> dict[str, float]:
    """Print on stderr what smoke predicts for the full run, and return it, see `predict`.

    Args:
        gate: smoke's output folder.
        windows: of the full run.
        share: this process's.
        plan: of the full run.

    Raises:
        UserError: the run needs more memory than the device has, unless `on_failed_gate` is "continue".
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
    """Predict a run from smoke's measurements: minutes by its tokens and processes, memory by smoke's peak.

    Smoke's peak holds for this run too: smoke rehearsed the heaviest micro-batch that the whole split can make, and
    both run by one plan.

    Args:
        gate: smoke's output folder; its training.json has the seconds per token and the peak memory.
        windows: of the run that is predicted.
        ran: plan and device of the run that is predicted, see `ran_as`.
        processes: number of processes that share its windows.

    Returns:
        predicted_minutes and predicted_memory_gib; {} if smoke ran by another plan or on another device, since its
        rates say nothing then.
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
    """Return the plan by which smoke ran, which its rehearsal has verified, if it is good for this run too.

    Returns None without a gate, if smoke ran on another device, under another memory limit or with another number of
    processes, or if `train` sets something that the plan does not follow.
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
    """Return the settings that change only speed and memory: plan, device type, memory limit. JSON, as `ran_as`."""
    return plan.to_json() | {"device": device, "memory_gib": train.memory_gib}


def smoke_words(
    history: History,
    checks: Sequence[Check],
    moved: float | None,
    windows: TrainingWindows,
    full_run: TrainConfig | None,
    canvas: Sequence[str] | None,
) -> dict[str, Any]:
    """Print what smoke saw in one paragraph on stderr; return it as "words" with its "alarms", for training.json.

    Args:
        history: of the finished smoke run.
        checks: of its canaries.
        moved: norm of the adapter's update relative to the frozen weights', see `canaries.update`.
        windows: of smoke.
        full_run: settings of the full run; None if they are not known.
        canvas: warnings of canvases, see `fitting`.
    """
    measured = history.summary()
    losses = [line["validation_nll"] for line in measured["validation"]]
    learned = next(check for check in checks if check["name"] == "all_modules_learn")
    full_s = None
    if full_run:
        rows = len(windows.lengths)
        mean = float(windows.lengths[: full_run.rows or rows].mean())
        full_s = measured["seconds_per_token"] * training_tokens(full_run, rows, mean)
    found = in_words(
        Seen(
            losses=history.losses,
            averaged=ends(len(history.losses)),
            validation=(losses[0], losses[-1]) if len(losses) > 1 else None,
            moved=moved,
            dead="" if learned["passed"] else learned["note"],
            canvas=canvas,
            full_s=full_s,
        )
    )
    print(f"smoke: {found['words']}", file=sys.stderr)
    return found


def fitting(canvases: Mapping[str, Mapping[str, Any]] | None, shards: Path) -> list[str] | None:
    """Return what the audit warns of canvases of generation that do not fit the training rows, each warning once.

    The audit compared them while the shards were made. Returns None where it did not know one of these canvases, as
    after an edit of `generate` since: the driver then warns.

    Args:
        canvases: what training and generation will show, by a name for the user, as `canvas.Canvas` has it.
        shards: output of prepare_shards.
    """
    if not canvases:
        return None
    audited = read_json(shards / AUDIT_FILE)["canvases"]
    if any({**audited.get(name, {}), **canvas} != audited.get(name) for name, canvas in canvases.items()):
        return None
    return list(dict.fromkeys(text for name in canvases for text in audited[name]["warnings"]))
