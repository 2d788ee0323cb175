"""Training: `train_adapter`, and in it the loop.

What it writes into `out`:

    adapter/            the adapter in PEFT format
    train_log.jsonl     one line per logged step and per validation, written as the run goes
    training.json       first and last loss, steps, tokens, memory, seconds per step, validation, what was resumed
    gate.json           the canaries: {"passed": ..., "checks": [...]}

and into `work`, which outlives a killed attempt: checkpoints/ (see `dreamtune.checkpoint`), on request tensorboard/.
`smoke` and `full` are both this function, with other numbers; full is given smoke's folder as its gate.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from peft import PeftModel
from torch import Tensor, nn

from dreamtune import canaries
from dreamtune.alignment import rows_aligned
from dreamtune.batching import Share, TrainingWindows, Window, dropout_seed, validation_batches
from dreamtune.checkpoint import newest, prune, save_adapter, save_checkpoint
from dreamtune.checks import Check, at, failed, verdict
from dreamtune.errors import UserError
from dreamtune.gate import announce_prediction, open_gate, ran_as, smoke_plan
from dreamtune.layers import prepare_layers
from dreamtune.loss import loss_sums
from dreamtune.memory import limit_memory, out_of_memory, peak_gib, watch
from dreamtune.model import attach_lora, count_parameters, load, resolve_device, unwrap
from dreamtune.nf4 import keep_dequantised
from dreamtune.optim import learning_rate, make_optimizer, set_learning_rate
from dreamtune.packing import Batch
from dreamtune.pass_plan import PassPlan, choose, shrink
from dreamtune.prefetch import Ahead
from dreamtune.progress import Progress
from dreamtune.rehearsal import heaviest_pass
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.training_log import History, Log

SMALLEST = "its layers are all recomputed and its longest document stands alone in a pass"


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

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapter's weights, the only trainable ones."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def train_adapter(
    train: TrainConfig,
    model: ModelConfig,
    shards: Path,
    out: Path,
    work: Path,
    gate: Path | None = None,
) -> dict[str, Any]:
    """Train an adapter from the base model, or go on from the newest whole checkpoint in `work`.

    Args:
        shards: output of prepare_shards.
        out: private, empty folder for what the module's docstring lists.
        work: folder that outlives a killed attempt; several attempts may use it at once.
        gate: smoke's output, which must have passed; None for smoke itself.

    Raises:
        UserError: the gate did not pass, the loss stopped being finite, the memory did not suffice, no training rows.
    """
    gate_passed = open_gate(gate, train.on_failed_gate)
    with out_of_memory(f"lower data.max_tokens, or take a larger GPU ({SMALLEST})"):
        run = prepare_run(train, model, shards, work, smoke_plan(gate, train, resolve_device(model.device)))
        predicted = announce_prediction(gate, run.windows, run.share, run.plan) if gate else {}
        checks = check_moment(run, "first_window")
        if gate and train.on_failed_gate == "stop" and (faults := failed(checks)):
            raise UserError(f"the run's own canaries failed: {'; '.join(faults)}")
        resume(run)
        loaded_gib = watch(run.share.device)
        rehearse(run)
        fit(run, open_log(run, out, work))
        checks += check_moment(run, "last_window")
    if broken := [check for check in checks if check["name"].startswith("loss_finite") and not check["passed"]]:
        raise UserError(f"{broken[0]['name']}: the loss is not finite; lower train.learning_rate or raise train.warmup")
    trainable, parameters = count_parameters(run.model)
    summary = run.history.summary() | predicted | {"gate_passed": gate_passed, "rows": run.windows.rows}
    summary |= {"epochs": train.epochs, "trainable": trainable, "parameters": parameters}
    summary |= {"loaded_gib": round(loaded_gib, 4), "ran_as": ran_as(run.plan, run.share.device.type)}
    if run.share.process == 0:
        save_adapter(run.model, out / "adapter", model)
        (out / "training.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (out / "gate.json").write_text(json.dumps(verdict(checks), indent=2) + "\n", encoding="utf-8")
    return {name: summary[name] for name in ("rows", "steps", "tokens", "first_loss", "last_loss", "trainable")}


def fit(run: Run, log: Log) -> None:
    """Take every step that is left. One step is one window, however many forward passes and processes share it."""
    train, history, total = run.train, run.history, run.windows.total
    run.model.train()
    last_checkpoint, first_step = time.monotonic(), history.step + 1
    if not history.lines:
        validate(run, log)
    progress = Progress("train", total, done=history.step) if run.share.process == 0 else None
    with progress or nullcontext(), Ahead(partial(make_window, run), total) as windows:
        for step in range(first_step, total + 1):
            started = time.monotonic()
            window, sums = accumulate(run, windows, step)
            share_gradients(run, sums)
            window_loss, window_nll = sums[0].item() / window.loss_tokens, sums[1].item()
            grad_norm = nn.utils.clip_grad_norm_(run.parameters, train.max_grad_norm).item()
            stop_unless_finite(step, window_loss, grad_norm)

            rate = learning_rate(step, total, train)
            set_learning_rate(run.optimizer, rate)
            run.optimizer.step()
            run.optimizer.zero_grad()

            history.add_step(
                step=step,
                loss=window_loss,
                nll=window_nll,
                nll_tokens=window.nll_tokens,
                grad_norm=grad_norm,
                tokens=window.tokens,
                wall_s=time.monotonic() - started,
                warm=step > first_step,
            )
            if progress:
                progress.advance(note=f"loss {window_loss:.4f}")
            epoch_ends = step % run.windows.per_epoch == 0 or step == total
            if step % train.log_every == 0 or step == total:
                log.write(history.line(step / run.windows.per_epoch, rate, peak_gib(run.share.device)))
            if step == total or (step % train.validate_every == 0 if train.validate_every else epoch_ends):
                validate(run, log)
            overdue = time.monotonic() - last_checkpoint > 60 * train.checkpoint_minutes
            if epoch_ends or overdue or (train.checkpoint_steps and step % train.checkpoint_steps == 0):
                save(run)
                last_checkpoint = time.monotonic()


def make_window(run: Run, step: int) -> Window:
    """Return a step's window as the plan cuts it now."""
    return run.windows.window(step, run.share, run.plan)


def accumulate(run: Run, windows: Ahead[Window], step: int) -> tuple[Window, Tensor]:
    """Add up the gradients of a window's passes, and return it with (weighted loss, nll), [2] float32 in nats.

    On a GPU nothing waits for it in here. Out of memory, the window is cut into smaller passes and begun anew: the
    sums are over the window, so that only rounding (and dropout's noise) tells.
    """
    window = windows[step]
    while True:
        try:
            sums = torch.zeros(2, device=run.share.device)
            for batch in window.batches:
                if len(batch.positions) == 0:
                    continue  # nothing is hidden, so nothing is added to either sum
                torch.manual_seed(dropout_seed(run.train.seed, step, batch))
                sums += forward_backward(run, batch, window.loss_tokens)
            return window, sums
        except torch.OutOfMemoryError:
            run.optimizer.zero_grad()
            make_smaller(run, window.batches)
        window = make_window(run, step)


def forward_backward(run: Run, batch: Batch, loss_tokens: int) -> Tensor:
    """Add a pass's share to the gradients; return (weighted loss, nll), [2], without a graph."""
    with mixed_precision(run):
        loss, nll = loss_sums(run.model, batch)
    (loss / loss_tokens).backward()
    return torch.stack([loss.detach(), nll]).float()


def mixed_precision(run: Run) -> AbstractContextManager[Any]:
    """On a GPU a bf16 model's adapter, whose weights are float32, multiplies in bf16 too."""
    wanted = run.share.device.type == "cuda" and run.base.dtype == "bfloat16"
    return torch.autocast("cuda", torch.bfloat16) if wanted else nullcontext()


def rehearse(run: Run) -> None:
    """Take the heaviest pass that the run can meet, and throw its gradients away: what it needs is known from here on.

    Its text is nonsense, all of it masked. Whatever does not fit makes the plan smaller before the first step.
    """
    run.model.train()
    while True:
        batch = heaviest_pass(run.windows, run.plan, run.share.device)
        try:
            forward_backward(run, batch, len(batch.positions))
            break
        except torch.OutOfMemoryError:
            make_smaller(run, (batch,))
        finally:
            run.optimizer.zero_grad()
    if run.share.process == 0:
        print(f"{run.plan}: {peak_gib(run.share.device):.2f} GiB at the most", file=sys.stderr)


def make_smaller(run: Run, batches: Sequence[Batch]) -> None:
    """Give `run` a plan that needs less memory.

    Raises:
        UserError: there is none.
    """
    torch.cuda.empty_cache()
    largest = max(len(batch.input_ids) for batch in batches)
    longest = max(batch.longest for batch in batches)
    layers = len(unwrap(run.model).model.layers)
    plan = shrink(run.plan, layers, largest, longest)
    if plan is None:
        raise UserError(f"out of GPU memory; lower data.max_tokens, or take a larger GPU ({SMALLEST})")
    print(f"out of GPU memory; going on with {plan}", file=sys.stderr)
    run.plan = plan
    prepare_layers(run.model, plan)


def validate(run: Run, log: Log) -> None:
    """Log the 1/t bound on the validation rows, in nats per response token, under masks that never change."""
    if not run.validates:
        return
    run.model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=run.share.device)  # [2]: nats, tokens
    with torch.no_grad():
        for batch in run.validation:
            tokens = sum(row.nll_tokens for row in batch.rows)
            nll = loss_sums(run.model, batch)[1].item() if len(batch.positions) else 0.0
            sums += torch.tensor([nll, tokens], dtype=torch.float64, device=run.share.device)
    run.model.train()
    if run.share.processes > 1:
        sums = reduce(sums, "sum")
    step, validation_nll = run.history.step, (sums[0] / sums[1]).item()
    if not math.isfinite(validation_nll):
        raise UserError(f"step {step}: the validation loss is {validation_nll}; lower train.learning_rate")
    log.write({"step": step, "epoch": step / run.windows.per_epoch, "validation_nll": validation_nll})


def share_gradients(run: Run, sums: Tensor) -> None:
    """Add up sums and gradients over the processes. Each already divided by the *whole* window, so a sum is exact."""
    if run.share.processes == 1:
        return
    sums.copy_(reduce(sums, "sum"))
    for parameter in run.parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = reduce(gradient, "sum")


def stop_unless_finite(step: int, loss: float, grad_norm: float) -> None:
    """A loss that is not finite always stops, before the optimiser takes it in."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise UserError(
            f"step {step}: the loss is {loss}, its gradient norm {grad_norm}; lower train.learning_rate or raise "
            "train.warmup"
        )


def prepare_run(
    train: TrainConfig, base: ModelConfig, shards: Path, work: Path, verified: PassPlan | None = None
) -> Run:
    """Load data and base model and put a fresh adapter on it: whatever was trained before, this starts at the base.

    Args:
        verified: the plan to run by; None makes one.
    """
    state = PartialState(cpu=resolve_device(base.device) == "cpu")
    share = Share(state.process_index, state.num_processes, state.device)
    meta, split = read_meta(shards), read_split(shards, "train")
    windows = TrainingWindows(split, meta, train)
    limit_memory(state.device, train.memory_gib)
    loaded = load(base)
    plan = verified or choose(loaded, train, state.device, windows.longest, windows.window_tokens)
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
    if (plan := PassPlan(**found.state["plan"])) != run.plan and plan.weights == run.plan.weights:
        run.plan = plan  # windows are cut as they were before, to the same rounding
        prepare_layers(run.model, plan)
    run.history.resumed_from.append(run.history.step)
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


def check_moment(run: Run, moment: str) -> list[Check]:
    """Run the canaries on the first or the last window that can be judged, all of it, on every process."""
    steps = range(1, run.windows.total + 1)
    steps = steps if moment == "first_window" else steps[::-1]
    step = next((step for step in steps if canaries.is_telling(run.windows.noised(step))), None)
    if step is None:
        raise UserError(
            f"in none of the {len(steps)} steps is a response token hidden, so there is nothing to learn or to judge; "
            "train on more or longer rows, or for more epochs"
        )
    whole = replace(run.share, process=0, processes=1)
    window = run.windows.window(step, whole, run.plan)
    checks = canaries.check_window(run.model, window.batches, run.windows.stored(step), run.windows.ids)
    if moment == "first_window":
        checks.append(canaries.starts_from_base(run.model, window.batches))
        epoch = range(1, run.windows.per_epoch + 1)
        checks.append(rows_aligned(run.model, (run.windows.window(step, whole, run.plan).batches for step in epoch)))
    return at(moment, checks)
