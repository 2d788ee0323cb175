"""A training run: what the loop works on, how it begins, goes on from a checkpoint, and writes one."""

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import nn

from dreamtune.batching import Share, TrainingWindows, validation_batches
from dreamtune.checkpoint import newest, prune, save_checkpoint
from dreamtune.errors import UserError
from dreamtune.interruption import StopSignals
from dreamtune.layers import prepare_layers
from dreamtune.memory import limit_memory
from dreamtune.model import attach_lora, load, resolve_device
from dreamtune.nf4 import keep_dequantised
from dreamtune.optim import make_optimizer
from dreamtune.packing import Batch
from dreamtune.pass_plan import PassPlan, agreed, choose
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.training_log import History, Log


@dataclass
class Run:
    """What the loop works on. Every process holds all of it; only `share.process` 0 writes files."""

    train: TrainConfig
    base: ModelConfig
    model: PeftModel
    optimizer: torch.optim.Optimizer
    windows: TrainingWindows
    validates: bool  # the same on every process, also on one whose share of the validation rows is empty
    validation: tuple[Batch, ...]
    share: Share
    plan: PassPlan  # how windows are cut into passes; smaller after the memory ran out
    checkpoints: Path
    fingerprint: dict[str, Any]
    history: History
    stop: StopSignals = field(default_factory=StopSignals)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapter's weights, the only trainable ones."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def prepare_run(
    train: TrainConfig, base: ModelConfig, shards: Path, work: Path, verified: PassPlan | None = None
) -> Run:
    """Load data and base model and put a fresh adapter on it: whatever was trained before, this starts at the base.

    Args:
        verified: the plan to run by; None makes one.
    """
    state = PartialState(cpu=check_gpus(resolve_device(base.device)) == "cpu")
    share = Share(state.process_index, state.num_processes, state.device)
    meta, split = read_meta(shards), read_split(shards, "train")
    windows = TrainingWindows(split, meta, train)
    limit_memory(state.device, train.memory_gib)
    loaded = load(base)
    tokens = windows.window_tokens / share.processes  # a pass for each process
    plan = agreed(verified or choose(loaded, train, state.device, windows.longest, tokens), share.processes)
    if plan.weights == "dequantised":
        keep_dequantised(loaded)
    model = attach_lora(loaded, train.lora, train.seed)
    prepare_layers(model, plan)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    validates = bool(train.validation_rows and meta["splits"].get("validation", {}).get("rows"))
    return Run(
        train,
        base,
        model,
        make_optimizer(parameters, train, state.device),
        windows,
        validates,
        tuple(validation_batches(read_split(shards, "validation"), meta, train, share, plan)) if validates else (),
        share,
        plan,
        checkpoints=work / "checkpoints",
        fingerprint={"train": train.by_kind()[0], "model": base.by_kind()[0], "splits": meta["splits"]},
        history=History(),
    )


def check_gpus(device: str) -> str:
    """Return `device`, once there is one for each process of this node.

    Raises:
        UserError: there are fewer.
    """
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device == "cuda" and wanted > there:
        raise UserError(f"train.gpus is {wanted} and torch sees {there} GPU here; lower it, or ask for a larger node")
    return device


def resume(run: Run) -> None:
    """Go on from the newest whole checkpoint, if there is one; all processes from the same."""
    found = newest(run.checkpoints)
    if run.share.processes > 1:
        paths = broadcast_object_list([found.path if found else None])
        assert paths[0] == (found.path if found else None), f"processes see different checkpoints: {paths[0]}"
    if found is None:
        return
    if found.state["fingerprint"] != json.loads(json.dumps(run.fingerprint)):
        raise UserError(f"{found.path} belongs to other settings or data; delete {run.checkpoints} to start anew")
    found.restore(run.model, run.optimizer)
    run.history = History(**found.state["history"])
    before = PassPlan(**found.state["plan"])
    if before.is_asked_for(run.train):  # windows are cut as they were, to the same rounding and dropout
        run.plan = replace(run.plan, micro_batch_tokens=before.micro_batch_tokens, cut_tokens=before.cut_tokens)
    run.history.resumed_from.append(run.history.step)
    if run.share.process == 0:
        print(f"resuming from {found.path.name} of {run.windows.total} steps", file=sys.stderr)


def save(run: Run) -> None:
    """Write a checkpoint and prune older ones."""
    if run.share.process == 0:
        state = {"history": run.history.to_state(), "fingerprint": run.fingerprint, "plan": run.plan.to_json()}
        save_checkpoint(run.checkpoints, run.history.step, run.model, run.optimizer, state, run.base)
        prune(run.checkpoints, run.train.keep_checkpoints)


def open_log(run: Run, out: Path, work: Path) -> Log:
    """Return the log of this process; only the first one writes."""
    if run.share.process:
        return Log(run.history, None, None)
    events = None
    if run.train.tensorboard:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely asked for

        events = SummaryWriter(str(work / "tensorboard"), purge_step=run.history.step + 1)
    return Log(run.history, out / "train_log.jsonl", events)
