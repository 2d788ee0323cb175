"""A training run: the objects that the loop works on, how they are prepared, resumed from a checkpoint, and saved."""

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
from dreamtune.formats.halving import REACHED, WHOLE, Rung
from dreamtune.formats.training import LOG_FILE
from dreamtune.interruption import StopSignals
from dreamtune.model.fp8 import check_fp8, use_fp8
from dreamtune.model.loading import load
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import keep_dequantised
from dreamtune.model.nonfinite import check_weights
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.sources.chosen_rows import check_enough
from dreamtune.train.checkpoint import check_finite, newest, prune, save_checkpoint
from dreamtune.train.compiling import with_compiling
from dreamtune.train.documents import check_padding
from dreamtune.train.finetuning import Finetuning, LoraFinetuning, adapter_gib
from dreamtune.train.full_finetuning import FullFinetuning
from dreamtune.train.gate import smoke_plan
from dreamtune.train.graphs import Graphs
from dreamtune.train.layers import prepare_layers
from dreamtune.train.log import History, Log
from dreamtune.train.micro_batch_plan import MicroBatchPlan, broadcast_plan, choose
from dreamtune.train.optimizer import make_optimizer
from dreamtune.train.windows import Share, TrainingWindows, validation_batches

SLOWEST_WRITE = timedelta(hours=2)  # the longest wait of the other processes while one reads or writes a checkpoint


@dataclass
class Run:
    """All objects that the training loop works on. Every process has its own; only `share.process` 0 writes files."""

    train: TrainConfig
    base: ModelConfig
    finetuning: Finetuning  # the model, and which of its weights are trained
    optimizer: torch.optim.Optimizer
    windows: TrainingWindows
    validates: bool  # the same on every process, also on one whose share of the validation rows is empty
    validation: tuple[Batch, ...]  # this process's micro-batches
    share: Share
    plan: MicroBatchPlan  # how windows are cut into micro-batches; shrinks if the memory runs out
    checkpoints: Path
    fingerprint: dict[str, Any]  # settings and data that a checkpoint must share to be resumed from
    history: History
    last: int  # the step after which it ends: that of its rung, or of all windows
    graphs: Graphs | None = None  # of micro-batches, once one has run under a plan with CUDA graphs
    stop: StopSignals = field(default_factory=StopSignals)

    @property
    def model(self) -> Any:
        """The model as it runs forward, with what is trained."""
        return self.finetuning.model


def prepare_run(
    train: TrainConfig,
    base: ModelConfig,
    shards: Path,
    work: Path,
    gate: Path | None = None,
    full_run: TrainConfig | None = None,
    rung: Rung = WHOLE,
) -> Run:
    """Load shards and base model, and make the model trainable. No weights but the base's are ever loaded here.

    Args:
        train: settings of the run.
        base: settings of the base model.
        shards: output of prepare_shards.
        work: folder whose `checkpoints` the run reads and writes.
        gate: smoke's output, whose verified plan is taken over if it suits this run; None for smoke itself.
        full_run: for smoke the settings of the full run, whose work decides whether layers are compiled.
        rung: the part of the run that is trained.

    Raises:
        UserError: missing or damaged data or model, a weight that is not finite, an objective that is not for the
            model's attention, padding tokens that the model does not have, a device without FP8 products, fewer GPUs
            than processes, or too little memory for any plan.
    """
    state = PartialState(cpu=check_gpus(resolve_device(base.device)) == "cpu", timeout=SLOWEST_WRITE)
    full = train.finetuning == "full"
    # The device carries its number ("cuda:1"): windows are made on a thread, whose current GPU is always the first.
    share = Share(state.process_index, state.num_processes, full, torch.device(numbered(str(state.device))))
    if train.products == "fp8":
        check_fp8(share.device, base.dtype)
    if share.process == 0:
        prune(work / "checkpoints", train.keep_checkpoints)  # the last attempt may have been killed before it did
    meta, split = read_meta(shards), read_split(shards, "train")
    check_objective(train, base, meta["tokenizer"])
    windows = TrainingWindows(split, meta, train)
    if full_run:  # smoke stops for it
        check_enough(split, full_run)
    limit_memory(share.device, train.memory_gib)
    loaded = load(base)
    check_weights(loaded)
    check_padding(train.padding_tokens, meta["tokenizer"], loaded.config.vocab_size)
    sharded = FullFinetuning(loaded, base, share.device) if full else None
    tokens = windows.window_tokens / share.processes  # so that each process has a micro-batch
    fixed = sharded.fixed_gib() if sharded else adapter_gib(loaded, train)
    verified = smoke_plan(gate, train, share)
    decided = with_compiling(loaded, train, windows, share, full_run)
    plan = verified or choose(loaded, decided, share.device, windows.longest, tokens, fixed)
    plan = broadcast_plan(plan, share.processes)
    if plan.weights == "dequantised":
        keep_dequantised(loaded)
    finetuning = sharded or LoraFinetuning(loaded, train, base, share)
    if train.products == "fp8":
        use_fp8(unwrap(finetuning.model).model.layers)
    prepare_layers(finetuning.model, plan, train.lora.shared_dropout)
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
        last=rung.last_step(windows.total),
    )


def check_objective(train: TrainConfig, base: ModelConfig, ids: dict[str, Any]) -> None:
    """Check that the objective is one for the model's attention, and that masked diffusion has its mask token.

    Args:
        train: settings of the run.
        base: settings of the base model.
        ids: special tokens, as in shards.json.

    Raises:
        UserError: they do not fit together.
    """
    if (train.objective == "causal") != base.causal:
        raise UserError(
            f"train.objective is {train.objective}, and model.attention {base.attention}: causal goes with causal only"
        )
    if ids["mask_id"] is None and not base.causal:
        raise UserError(
            "the shards name no mask token, without which no diffusion model can be trained; make them again"
        )


def check_gpus(device: str) -> str:
    """Check that this node has a GPU for each of its processes, reserve one for a process alone; return `device`.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: torch sees fewer GPUs than there are processes.
    """
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device == "cuda" and wanted > there:
        raise UserError(f"train.gpus is {wanted} and torch sees {there} GPU here; lower it, or ask for a larger node")
    take_gpu(device)
    return device


def resume(run: Run, before: Path | None = None) -> None:
    """Restore a run from its newest whole checkpoint, if there is one. Collective: the first process reads it for all.

    Args:
        run: prepared.
        before: output of the rung before, with whose checkpoint a run begins that has none yet.

    Raises:
        UserError: the checkpoint belongs to other settings or data, or holds NaN or infinity.
    """
    places = [run.checkpoints, *([before / REACHED] if before else [])]
    found = next(filter(None, map(newest, places)), None) if run.share.process == 0 else None
    if found:
        check_finite(found)
    known = (found.path, found.state) if found else None
    if run.share.processes > 1:
        [known] = broadcast_object_list([known])
    if known is None:
        return
    path, state = known
    if state["fingerprint"] != json.loads(json.dumps(run.fingerprint)):
        raise UserError(f"{path} belongs to other settings or data; delete {run.checkpoints} to start again")
    run.finetuning.restore(found, run.optimizer)
    run.history = History(**state["history"])
    earlier = MicroBatchPlan(**state["plan"])
    # Micro-batches stay as they were, for the same rounding and the same dropout. Synchronous processes on GPUs take
    # the new plan: they have no dropout, and could not shrink the old one if it did not fit.
    if earlier.is_asked_for(run.train) and not (run.share.synchronous and run.share.device.type == "cuda"):
        graphs = run.plan.graphs and earlier.graphs  # not if the memory did not suffice for them
        tokens, cut = earlier.micro_batch_tokens, earlier.cut_tokens
        run.plan = replace(run.plan, micro_batch_tokens=tokens, cut_tokens=cut, graphs=graphs)
    run.history.resumed_from.append(run.history.step)
    if run.share.process == 0:
        print(f"resuming from {path.name} of {run.windows.total} steps", file=sys.stderr)


def save(run: Run, folder: Path | None = None) -> None:
    """Write a checkpoint of the run and prune older ones. Collective; only the first process writes.

    Args:
        run: what is saved.
        folder: of checkpoints; None for the run's own.
    """
    folder = folder or run.checkpoints
    weights, optimizer = run.finetuning.weights(), run.finetuning.optimizer_state(run.optimizer)
    if run.share.process == 0:
        state = {"history": run.history.to_state(), "fingerprint": run.fingerprint, "plan": run.plan.to_json()}
        write = partial(run.finetuning.write_weights, weights)
        save_checkpoint(folder, run.history.step, write, optimizer, state)
        prune(folder, run.train.keep_checkpoints)


def open_log(run: Run, out: Path, work: Path) -> Log:
    """Return the log of this process; only the first process's writes files.

    Args:
        out: folder of train_log.jsonl.
        work: folder of TensorBoard's events, if `train.tensorboard` asks for them.
    """
    if run.share.process:
        return Log(run.history, None, None)
    events = None
    if run.train.tensorboard:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely asked for

        events = SummaryWriter(str(work / "tensorboard"), purge_step=run.history.step + 1)
    return Log(run.history, out / LOG_FILE, events)
