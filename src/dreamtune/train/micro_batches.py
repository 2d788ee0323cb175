"""The micro-batches of a window, made ahead: gradient accumulation, and a smaller plan where one does not fit."""

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from dreamtune.device.memory import peak_gib, watch
from dreamtune.device.phases import phase
from dreamtune.errors import UserError
from dreamtune.model.logits import unwrap
from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.loss import source_sums, weighted_loss
from dreamtune.objective.packing import GPU_MULTIPLE, Batch, collate
from dreamtune.train.graphs import Graphs, gradients_in_place
from dreamtune.train.layers import prepare_layers
from dreamtune.train.micro_batch_plan import MicroBatchPlan, shrink
from dreamtune.train.optimizer import coming_state_bytes
from dreamtune.train.run import Run
from dreamtune.train.windows import TrainingWindows, Window, dropout_seed

SMALLEST = "its layers are all recomputed and its longest document stands alone in a micro-batch"
Made = TypeVar("Made")


class Prefetcher(Generic[Made]):
    """Gives `make(n)` for `prefetcher[n]`, computed on a thread since `start(n)`, where this was called before.

    So the next window is made while the GPU is busy with the current one.

    Each item is given once; asked for again, it is made again.

    Args:
        make: runs on one background thread, one call at a time.
        last: the largest number that `start` begins with.

    >>> with Prefetcher(lambda step: f"window {step}", last=3) as windows:
    ...     windows.start(2)  # goes on while this thread does something else
    ...     windows.start(4)  # beyond the last: ignored
    ...     windows[1], windows[2]
    ('window 1', 'window 2')
    """

    def __init__(self, make: Callable[[int], Made], last: int) -> None:
        self._make, self._last = make, last
        self._under_way: dict[int, Future[Made]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def start(self, number: int) -> None:
        """Begin to make item `number`, unless it lies beyond the last one or is under way already.

        The best moment is when the calling thread is about to wait for the GPU.
        """
        if number <= self._last and number not in self._under_way:
            self._under_way[number] = self._pool.submit(self._make, number)

    def __getitem__(self, number: int) -> Made:
        self.start(number)
        return self._under_way.pop(number).result()

    def __enter__(self) -> "Prefetcher[Made]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def make_window(run: Run, step: int, annealed: bool = True) -> Window:
    """Return the window of a step, cut into micro-batches by the run's current plan.

    Args:
        run: not changed.
        step: from 1.
        annealed: False leaves out what `train.attention_annealing` does to the attention of the first steps.
    """
    window = run.windows.window(step, run.share, run.plan)
    return window.annealed(run.windows.right_context(step)) if annealed else window


def accumulate(run: Run, windows: Prefetcher[Window], step: int) -> tuple[Window, Tensor]:
    """Accumulate the gradients of a window's micro-batches; return the window, and its sums over this process.

    The function does not wait for the GPU. If memory runs out, it shrinks the plan and repeats the window in smaller
    micro-batches: both sums are over the window, so that only rounding (and dropout's noise) changes.

    Args:
        run: its plan may change.
        windows: made ahead; the next one is started here.
        step: number of the window, from 1.

    Returns:
        (the window, [2 + sources] float32: see `forward_backward`)

    Raises:
        UserError: one document does not fit into the memory.
        Interrupted: the run was asked to stop; the window's gradients are incomplete.
    """
    window = windows[step]
    while (sums := window_sums(run, window, step)) is None:
        make_smaller(run, window.batches)
        window = make_window(run, step)
    windows.start(step + 1)  # while the GPU is busy with this one
    return window, sums


def window_sums(run: Run, window: Window, step: int) -> Tensor | None:
    """Run a window's micro-batches and return their sums, see `forward_backward`.

    Returns None, with all gradients cleared, if a micro-batch did not fit into memory.
    """
    try:
        sums = torch.zeros(2 + len(run.windows.sources), device=run.share.device)
        for batch in window.batches:
            if run.share.processes == 1:  # several agree on a stop after the window (`stop_together`), or they deadlock
                run.stop.check()
            if len(batch.positions) == 0 and not run.share.synchronous:
                continue  # no token is hidden, so neither sum nor any gradient would change
            torch.manual_seed(dropout_seed(run.train.seed, step, batch))
            sums += run_micro_batch(run, batch, window.loss_tokens)
        return sums
    except torch.OutOfMemoryError:  # the activations are released only once this handler is left
        if run.share.synchronous:  # the other processes would deadlock in a micro-batch that this one does not run
            raise
        clear_gradients(run)
        return None


def run_micro_batch(run: Run, batch: Batch, loss_tokens: int) -> Tensor:
    """Run a micro-batch as the plan says, in a CUDA graph or as it is; see `forward_backward`."""
    return graphs_of(run)(batch, loss_tokens) if run.plan.graphs else forward_backward(run, batch, loss_tokens)


def graphs_of(run: Run) -> Graphs:
    """Return the run's CUDA graphs of micro-batches, which are made at the first call."""
    if run.graphs is None:
        longest = math.ceil(run.windows.longest / GPU_MULTIPLE) * GPU_MULTIPLE
        run.graphs = Graphs(partial(forward_backward, run), run.finetuning.parameters, longest, run.share.device)
    return run.graphs


def clear_gradients(run: Run) -> None:
    """Clear the gradients, in place where CUDA graphs add to them."""
    if run.graphs is None:
        run.optimizer.zero_grad()
    else:
        torch._foreach_zero_(gradients_in_place(run.finetuning.parameters))


def forward_backward(run: Run, batch: Batch, loss_tokens: int | Tensor) -> Tensor:
    """Run a micro-batch forward and backward: add (sum of w * CE) / `loss_tokens` to the gradients.

    Args:
        batch: the micro-batch.
        loss_tokens: response tokens of the whole window, a scalar tensor where the pass is captured in a CUDA graph.

    Returns:
        [2 + sources] float32 without an autograd graph: sum of w * CE, sum of CE / t up to the first end tokens, and
        the former of each source where there are several, in nats.
    """
    with run.finetuning.mixed_precision():
        loss, losses = weighted_loss(run.model, batch)
        nll = (losses * batch.elbo_weights).sum()
        by_source = source_sums(losses, batch, len(run.windows.sources))
    (loss / loss_tokens).backward()
    return torch.stack([loss.detach(), nll, *by_source]).float()


@phase("rehearsal")
def rehearse(run: Run) -> None:
    """Run one forward and backward pass on the largest micro-batch that this run can make, and discard the gradients.

    The micro-batch has dummy tokens, all masked. Its peak memory bounds every later step; if it does not fit, the plan
    shrinks here, before the first step.

    Raises:
        UserError: one document does not fit into the memory.
    """
    run.model.train()
    while not fits(run, batch := heaviest_micro_batch(run.windows, run.plan, run.share.device)):
        make_smaller(run, (batch,))
    if run.share.process == 0:
        later = ", gradients and optimizer to come" if run.share.synchronous else ""
        print(f"{run.plan}: {peak_gib(run.share.device):.2f} GiB in the rehearsal{later}", file=sys.stderr)


def fits(run: Run, batch: Batch) -> bool:
    """Return whether a micro-batch fits into memory: run it forward and backward, and clear the gradients.

    The state that the optimiser's first step will make takes its room meanwhile: later micro-batches run beside it.
    Synchronous processes come without: their plan has counted it, see `Finetuning`.

    Raises:
        torch.OutOfMemoryError: it does not fit in a run of synchronous processes, which cannot go on by themselves.
    """
    state_bytes = 0 if run.share.synchronous else coming_state_bytes(run.optimizer)
    try:
        state = torch.empty(state_bytes, dtype=torch.uint8, device=run.share.device)  # noqa: F841, held till the end
        run_micro_batch(run, batch, len(batch.positions))
        return True
    except torch.OutOfMemoryError:
        if run.share.synchronous:
            raise
        return False
    finally:
        clear_gradients(run)


def make_smaller(run: Run, batches: Sequence[Batch]) -> None:
    """Replace the run's plan by one that needs less memory, and say so on stderr.

    Args:
        run: its plan and its model's layers change.
        batches: the micro-batches of which one did not fit.

    Raises:
        UserError: there is no smaller plan.
    """
    run.graphs = None  # they hold memory of their own
    torch.cuda.empty_cache()
    watch(run.share.device)  # forget the peak of the attempt that failed: the smaller plan will stay below it
    largest = max(sum(len(noised.input_ids) for noised in batch.noised) for batch in batches)
    longest = max(batch.longest for batch in batches)
    layers = len(unwrap(run.model).model.layers)
    plan = replace(run.plan, graphs=False) if run.plan.graphs else shrink(run.plan, layers, largest, longest)
    if plan is None:
        raise UserError(f"out of GPU memory; lower data.max_tokens, or take a larger GPU ({SMALLEST})")
    print(f"out of GPU memory; going on with {plan}", file=sys.stderr)
    run.plan = plan
    prepare_layers(run.model, plan, run.train.lora.shared_dropout)


def heaviest_micro_batch(windows: TrainingWindows, plan: MicroBatchPlan, device: torch.device) -> Batch:
    """Return the largest micro-batch that a run can make: documents of the greatest length, up to the plan's budget.

    Every token but a document's first is masked, so that as many as possible go through the head. If the run's
    documents are of several lengths, so are these: attention to those of one length is another graph to the compiler.
    """
    longest, tokens = windows.longest, plan.cut_tokens or plan.micro_batch_tokens
    lengths = [longest] * max(1, min(windows.documents, tokens // longest))
    rest = tokens - sum(lengths)
    if rest > 1 and len(lengths) < windows.documents:
        lengths.append(rest)
    several = windows.train.longest_tail or windows.lengths.min() < windows.lengths.max()
    if several and len(lengths) > 1:
        lengths[-1] = min(lengths[-1], longest - 1)
    noise = Noise("elbo", 1.0, seed=0, epoch=0, mask_id=windows.ids["mask_id"])
    zeros = (Document(number, np.zeros(length, np.int64), 1, 0) for number, length in enumerate(lengths))
    return collate([corrupt(document, noise) for document in zeros], device)
