"""The forward and backward passes of a window, and what happens when one does not fit into the GPU's memory."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dreamtune.device.memory import peak_gib, watch
from dreamtune.errors import UserError
from dreamtune.model.logits import unwrap
from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import Batch, collate
from dreamtune.train.layers import prepare_layers
from dreamtune.train.micro_batch_plan import MicroBatchPlan, shrink
from dreamtune.train.prefetch import Ahead
from dreamtune.train.run import Run
from dreamtune.train.windows import TrainingWindows, Window, dropout_seed

SMALLEST = "its layers are all recomputed and its longest document stands alone in a pass"


def make_window(run: Run, step: int) -> Window:
    """Return a step's window as the plan cuts it now."""
    return run.windows.window(step, run.share, run.plan)


def accumulate(run: Run, windows: Ahead[Window], step: int) -> tuple[Window, Tensor]:
    """Add up the gradients of a window's passes, and return it with (weighted loss, nll), [2] float32 in nats.

    On a GPU nothing waits for it in here. Out of memory, the window is cut into smaller passes and begun anew: the
    sums are over the window, so that only rounding (and dropout's noise) tells.
    """
    window = windows[step]
    while (sums := passes_of(run, window, step)) is None:
        make_smaller(run, window.batches)
        window = make_window(run, step)
    windows.start(step + 1)  # while the GPU is busy with this one
    return window, sums


def passes_of(run: Run, window: Window, step: int) -> Tensor | None:
    """Return what a window's passes add up to, [2]; None, and no gradient, if one of them did not fit."""
    try:
        sums = torch.zeros(2, device=run.share.device)
        for batch in window.batches:
            if run.share.processes == 1:  # several agree on it after the window, lest they wait for each other
                run.stop.check()
            if len(batch.positions) == 0 and not run.share.lockstep:
                continue  # nothing is hidden, so nothing is added to either sum
            torch.manual_seed(dropout_seed(run.train.seed, step, batch))
            sums += forward_backward(run, batch, window.loss_tokens)
        return sums
    except torch.OutOfMemoryError:  # what the passes held is free only outside of here
        if run.share.lockstep:  # the others would wait for ever for a pass that is not made
            raise
        run.optimizer.zero_grad()
        return None


def forward_backward(run: Run, batch: Batch, loss_tokens: int) -> Tensor:
    """Add a pass's share to the gradients; return (weighted loss, nll), [2], without a graph."""
    with run.finetuning.mixed_precision():
        loss, nll = loss_sums(run.model, batch)
    (loss / loss_tokens).backward()
    return torch.stack([loss.detach(), nll]).float()


def rehearse(run: Run) -> None:
    """Take the heaviest pass that the run can meet, and throw its gradients away: what it needs is known from here on.

    Its text is nonsense, all of it masked. Whatever does not fit makes the plan smaller before the first step.
    """
    run.model.train()
    while not fits(run, batch := heaviest_micro_batch(run.windows, run.plan, run.share.device)):
        make_smaller(run, (batch,))
    if run.share.process == 0:
        later = ", gradients and optimizer to come" if run.share.lockstep else ""
        print(f"{run.plan}: {peak_gib(run.share.device):.2f} GiB in the rehearsal{later}", file=sys.stderr)


def fits(run: Run, batch: Batch) -> bool:
    """Try a pass, and leave no gradient behind."""
    try:
        forward_backward(run, batch, len(batch.positions))
        return True
    except torch.OutOfMemoryError:
        if run.share.lockstep:
            raise
        return False
    finally:
        run.optimizer.zero_grad()


def make_smaller(run: Run, batches: Sequence[Batch]) -> None:
    """Give `run` a plan that needs less memory.

    Raises:
        UserError: there is none.
    """
    torch.cuda.empty_cache()
    watch(run.share.device)  # the peak of what failed says nothing of what is going to run
    largest = max(sum(len(row.input_ids) for row in batch.rows) for batch in batches)
    longest = max(batch.longest for batch in batches)
    layers = len(unwrap(run.model).model.layers)
    plan = shrink(run.plan, layers, largest, longest)
    if plan is None:
        raise UserError(f"out of GPU memory; lower data.max_tokens, or take a larger GPU ({SMALLEST})")
    print(f"out of GPU memory; going on with {plan}", file=sys.stderr)
    run.plan = plan
    prepare_layers(run.model, plan)


def heaviest_micro_batch(windows: TrainingWindows, plan: MicroBatchPlan, device: torch.device) -> Batch:
    """Return documents of the greatest length that together reach the budget, every token but the first masked."""
    longest, tokens = windows.longest, plan.cut_tokens or plan.micro_batch_tokens
    lengths = [longest] * max(1, min(windows.documents, tokens // longest))
    rest = tokens - sum(lengths)
    if rest > 1 and len(lengths) < windows.documents:
        lengths.append(rest)
    noise = Noise("elbo", 1.0, seed=0, epoch=0, mask_id=windows.ids["mask_id"])
    zeros = (Document(number, np.zeros(length, np.int64), 1, 0) for number, length in enumerate(lengths))
    return collate([corrupt(document, noise) for document in zeros], device)
