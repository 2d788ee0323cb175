"""Training: `train_adapter`. Its loop is `steps.fit`.

A training writes into `out`:

    adapter/            the adapter in PEFT format; or, after full fine-tuning,
    model/              the whole model in the base's format
    train_log.jsonl     one line per logged step and per validation, written as the run goes
    training.json       first and last loss, steps, tokens, memory, seconds per step, validation, what was resumed
    gate.json           the canaries: {"passed": ..., "checks": [...]}
    range_test.json     smoke's, with train.learning_rate find: the curve, and the rate that was chosen from it

Under successive halving a training is cut into rungs, whose last one is the full run. Any other writes train_log.jsonl,

    reached/            the checkpoint at its end, from which the next rung goes on: the full run is the same to the bit
    rung.json           its step and its validation NLL, by which it is decided which points go on

and into `work`, which outlives a killed attempt: checkpoints/ (see `checkpoint.py`) and, on request, tensorboard/.
The smoke run and the full run both call `train_adapter`, with different settings; the full run is given smoke's folder
as its gate.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dreamtune.canaries.update import relative_update
from dreamtune.checks import failed, verdict
from dreamtune.device.compiled_code import compiled_code
from dreamtune.device.memory import out_of_memory, peak_gib, watch
from dreamtune.device.phases import phase
from dreamtune.errors import UserError
from dreamtune.files import finite, write_json
from dreamtune.formats.halving import WHOLE, Rung
from dreamtune.formats.training import GATE_FILE, RANGE_TEST_FILE, TRAINING_FILE
from dreamtune.interruption import Interrupted
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import count_parameters
from dreamtune.model.logits import unwrap
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.rate import FIND
from dreamtune.settings.train import TrainConfig
from dreamtune.smoke.range_test import WINDOWS, range_test
from dreamtune.train.canaries import run_canaries, training_canaries
from dreamtune.train.gate import (
    announce_prediction,
    fitting,
    open_gate,
    ran_as,
    smoke_words,
    stop_if_decided,
    with_smoke_rate,
)
from dreamtune.train.log import Log
from dreamtune.train.micro_batches import (
    SMALLEST,
    clear_gradients,
    make_smaller,
    make_window,
    rehearse,
    window_sums,
)
from dreamtune.train.optimizer import make_optimizer, set_learning_rate
from dreamtune.train.run import Run, open_log, prepare_run, resume, save
from dreamtune.train.steps import fit
from dreamtune.train.validation import end_rung

REMEDY = {
    "lora": f"lower data.max_tokens, or take a larger GPU ({SMALLEST})",
    "full": "lower train.micro_batch_tokens, raise train.recompute_layers, or take more GPUs (train.gpus)",
}


def train_adapter(
    train: TrainConfig,
    model: ModelConfig,
    shards: Path,
    out: Path,
    work: Path,
    gate: Path | None = None,
    full_run: TrainConfig | None = None,
    canvases: Mapping[str, Mapping[str, Any]] | None = None,
    rung: Rung = WHOLE,
    before: Path | None = None,
    decision: Path | None = None,
) -> dict[str, Any]:
    """Fine-tune the base model (an adapter, or the whole model), or go on from the newest whole checkpoint in `work`.

    Every process of the run calls this function.

    Args:
        train: settings of the run.
        model: settings of the base model.
        shards: output of prepare_shards.
        out: private, empty folder for the files that the module's docstring lists.
        work: folder that outlives a killed attempt; several attempts may use it at once.
        gate: smoke's output, which must have passed; None for smoke itself.
        full_run: settings of the full run, for smoke: its work decides whether layers are compiled.
        canvases: for smoke's paragraph, by a name for the user, what training and generation will show.
        rung: the part of the run that is trained; if it is not the last, the run ends with it.
        before: output of the rung before, from which this one goes on.
        decision: output of halve after that rung.

    Returns:
        counts for the manifest: rows, steps, tokens, tail_tokens of these, first_loss, last_loss, trainable; or of a
        rung those of rung.json.

    Raises:
        UserError: the gate did not pass, the run was stopped after the rung before, the loss stopped being finite, the
            memory did not suffice, no training rows.
        Interrupted: the run was asked to stop, and has written a checkpoint.
    """
    stop_if_decided(before, decision)
    gate_passed = open_gate(gate, train.on_failed_gate)
    train = with_smoke_rate(train, gate)
    with out_of_memory(REMEDY[train.finetuning]), ExitStack() as stack:
        run = prepare_run(train, model, shards, work, gate, full_run, rung)
        stack.enter_context(compiled_code(run.share.device))
        predicted = announce_prediction(gate, run.windows, run.share, run.plan) if gate else {}
        checks = run_canaries(run, "first_window")
        if gate and train.on_failed_gate == "stop" and (faults := failed(checks)):
            raise UserError(f"the run's own canaries failed: {'; '.join(faults)}")
        untrained = run.finetuning.fingerprints()
        resume(run, before)
        loaded_gib = watch(run.share.device)
        rehearse(run)
        began, log = time.monotonic(), open_log(run, out, work)
        if rung.until < 1:
            return end_rung(run, partial(fit_or_save, run, log), out)
        fit_or_save(run, log)
        fit_s = time.monotonic() - began  # of this process, whatever it resumed
        checks += [*run_canaries(run, "last_window"), *training_canaries(run, untrained)]
    trainable, parameters = count_parameters(run.model)
    summary = run.history.summary() | predicted | {"gate_passed": gate_passed, "processes": run.share.processes}
    summary |= {
        "rows": run.windows.rows,
        "epochs": run.windows.epochs,
        "trainable": trainable,
        "parameters": parameters,
    }
    summary |= {"fit_s": round(fit_s, 3), "host_memory_gib": round(peak_gib("cpu"), 4)}
    summary |= {"learning_rate": run.train.peak_rate}
    summary |= {"family": facts_of(unwrap(run.model).config).family}
    summary |= {"loaded_gib": round(loaded_gib, 4), "ran_as": ran_as(run.plan, train, run.share.device.type)}
    weights = run.finetuning.weights()
    if run.share.process == 0:
        if gate is None:
            moved = relative_update(run.model)
            summary |= smoke_words(run.history, checks, moved, run.windows, full_run, fitting(canvases, shards))
        run.finetuning.write_result(weights, out)
        write_json(out / TRAINING_FILE, finite(summary))
        write_json(out / GATE_FILE, finite(verdict(checks)))
        if run.history.range_test:
            write_json(out / RANGE_TEST_FILE, finite(run.history.range_test))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    counted = ("rows", "steps", "tokens", "tail_tokens", "first_loss", "last_loss", "trainable")
    return {name: summary[name] for name in counted}


def find_learning_rate(run: Run) -> None:
    """Replace `find` by the rate that a range test chooses, or chose before the checkpoint was written. Collective.

    Raises:
        UserError: no rate can be chosen from the curve, see `smoke.range_test`.
    """
    if run.train.learning_rate != FIND:
        return
    found = run.history.range_test or try_rates(run)
    run.history.range_test, run.train = found, run.train.model_copy(update={"learning_rate": found["chosen"]})
    if run.share.process == 0:
        said = f"the loss {found['ended']}, and was least at {found['turned_at']:.1e}, by {found['fall']:.0%}"
        print(f"range test: {said}; train.learning_rate is {found['chosen']:.1e}", file=sys.stderr)


@phase("range test")
def try_rates(run: Run) -> dict[str, Any]:
    """Run the range test on the run's first windows with an optimiser of its own, then put the weights back.

    Each token attends to its whole document in them, so that only rates move the loss. Collective. Returns the content
    of range_test.json.
    """
    run.model.train()
    weights = run.finetuning.parameters
    kept = [weight.detach().to("cpu", copy=True) for weight in weights]  # the plan has no GPU memory for them
    optimizer = make_optimizer(weights, run.train, run.share.device)

    def loss_of(number: int) -> float:
        clear_gradients(run)
        while (sums := window_sums(run, window := make_window(run, number + 1, annealed=False), number + 1)) is None:
            make_smaller(run, window.batches)
        run.finetuning.add_up(sums)
        return sums[0].item() / window.loss_tokens

    def step(rate: float) -> None:
        run.finetuning.clip(run.train.max_grad_norm, run.finetuning.gradient_norms())
        set_learning_rate(optimizer, rate)
        optimizer.step()

    found = range_test(min(WINDOWS, run.windows.total), loss_of, step)
    clear_gradients(run)
    with torch.no_grad():
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
    return found


def fit_or_save(run: Run, log: Log) -> None:
    """Find the learning rate, if the settings ask for it, and train to the last step.

    Asked to stop, finish the micro-batch, write a checkpoint and raise `Interrupted`. The gradients of an unfinished
    window are dropped: the next start repeats the window, to the same bits.
    """
    with run.stop:
        try:
            find_learning_rate(run)
            fit(run, log)
        except Interrupted as stopped:
            step = run.history.step
            if step:
                save(run)
                if run.share.processes > 1:  # torchrun kills all processes when one ends; the first is still writing
                    torch.distributed.barrier()
            kept = f"a checkpoint after step {step} of {run.windows.total} is kept" if step else "no step was finished"
            raise Interrupted(f"{stopped}; {kept}; start snakemake again to go on from there") from None
