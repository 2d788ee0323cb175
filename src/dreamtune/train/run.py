"""A training run: what the loop works on, how it begins, goes on from a checkpoint, and writes one."""

import json
import os
import sys
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dreamtune.device.gpus import resolve_device, take_gpu
from dreamtune.device.memory import limit_memory, numbered
from dreamtune.errors import UserError
from dreamtune.formats.training import LOG_FILE
from dreamtune.interruption import StopSignals
from dreamtune.model.loading import load
from dreamtune.model.nf4 import keep_dequantised
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train.checkpoint import newest, prune, save_checkpoint
from dreamtune.train.finetuning import Finetuning, LoraFinetuning
from dreamtune.train.full_finetuning import FullFinetuning
from dreamtune.train.gate import smoke_plan
from dreamtune.train.layers import prepare_layers
from dreamtune.train.log import History, Log
from dreamtune.train.micro_batch_plan import MicroBatchPlan, agreed, choose
from dreamtune.train.optimizer import make_optimizer
from dreamtune.train.windows import Share, TrainingWindows, validation_batches

SLOWEST_WRITE = timedelta(hours=2)  # for which the others wait while one process reads or writes a checkpoint


@dataclass
class Run:
    """What the loop works on. Every process holds all of it; only `share.process` 0 writes files."""

    train: TrainConfig
    base: ModelConfig
    finetuning: Finetuning  # what is trained
    optimizer: torch.optim.Optimizer
    windows: TrainingWindows
    validates: bool  # the same on every process, also on one whose share of the validation rows is empty
    validation: tuple[Batch, ...]
    share: Share
    plan: MicroBatchPlan  # how windows are cut into passes; smaller after the memory ran out
    checkpoints: Path
    fingerprint: dict[str, Any]
    history: History
    stop: StopSignals = field(default_factory=StopSignals)

    @property
    def model(self) -> Any:
        """The model that is trained, as it passes forward."""
        return self.finetuning.model


def prepare_run(train: TrainConfig, base: ModelConfig, shards: Path, work: Path, gate: Path | None = None) -> Run:
    """Load data and base model, and make it trainable: whatever was trained before, this starts at the base.

    Args:
        gate: smoke's output, whose plan is taken if it is that of a run like this; None makes one.
    """
    state = PartialState(cpu=check_gpus(resolve_device(base.device)) == "cpu", timeout=SLOWEST_WRITE)
    full = train.finetuning == "full"
    # By its number: windows are made in a thread, for which the current GPU is the first.
    share = Share(state.process_index, state.num_processes, full, torch.device(numbered(str(state.device))))
    meta, split = read_meta(shards), read_split(shards, "train")
    windows = TrainingWindows(split, meta, train)
    limit_memory(share.device, train.memory_gib)
    loaded = load(base)
    sharded = FullFinetuning(loaded, base, share.device) if full else None
    tokens = windows.window_tokens / share.processes  # a pass for each process
    besides = sharded.besides_gib() if sharded else 0.0
    verified = smoke_plan(gate, train, share)
    plan = agreed(verified or choose(loaded, train, share.device, windows.longest, tokens, besides), share.processes)
    if plan.weights == "dequantised":
        keep_dequantised(loaded)
    finetuning = sharded or LoraFinetuning(loaded, train, base, share)
    prepare_layers(finetuning.model, plan)
    validates = bool(train.validation_rows and meta["splits"].get("validation", {}).get("rows"))
    return Run(
        train,
        base,
        finetuning,
        make_optimizer(finetuning.parameters, train, share.device),
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
    """Return `device`, once there is one for each process of this node; a process alone takes one.

    Raises:
        UserError: there are fewer.
    """
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device == "cuda" and wanted > there:
        raise UserError(f"train.gpus is {wanted} and torch sees {there} GPU here; lower it, or ask for a larger node")
    take_gpu(device)
    return device


def resume(run: Run) -> None:
    """Go on from the newest whole checkpoint, if there is one. The first process reads it, for all of them."""
    found = newest(run.checkpoints) if run.share.process == 0 else None
    known = (found.path, found.state) if found else None
    if run.share.processes > 1:
        [known] = broadcast_object_list([known])
    if known is None:
        return
    path, state = known
    if state["fingerprint"] != json.loads(json.dumps(run.fingerprint)):
        raise UserError(f"{path} belongs to other settings or data; delete {run.checkpoints} to start anew")
    run.finetuning.restore(found, run.optimizer)
    run.history = History(**state["history"])
    before = MicroBatchPlan(**state["plan"])
    # Windows are cut as they were, to the same rounding and dropout; but what does not fit could not be made smaller
    # where processes go in step, and there is no dropout.
    if before.is_asked_for(run.train) and not (run.share.lockstep and run.share.device.type == "cuda"):
        run.plan = replace(run.plan, micro_batch_tokens=before.micro_batch_tokens, cut_tokens=before.cut_tokens)
    run.history.resumed_from.append(run.history.step)
    if run.share.process == 0:
        print(f"resuming from {path.name} of {run.windows.total} steps", file=sys.stderr)


def save(run: Run) -> None:
    """Write a checkpoint and prune older ones."""
    weights, optimizer = run.finetuning.weights(), run.finetuning.optimizer_state(run.optimizer)
    if run.share.process == 0:
        state = {"history": run.history.to_state(), "fingerprint": run.fingerprint, "plan": run.plan.to_json()}
        write = partial(run.finetuning.write_weights, weights)
        save_checkpoint(run.checkpoints, run.history.step, write, optimizer, state)
        prune(run.checkpoints, run.train.keep_checkpoints)


def open_log(run: Run, out: Path, work: Path) -> Log:
    """Return the log of this process; only the first one writes."""
    if run.share.process:
        return Log(run.history, None, None)
    events = None
    if run.train.tensorboard:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely asked for

        events = SummaryWriter(str(work / "tensorboard"), purge_step=run.history.step + 1)
    return Log(run.history, out / LOG_FILE, events)
