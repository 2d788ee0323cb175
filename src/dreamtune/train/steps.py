"""The training loop: `fit` runs every step that is left, with validations, log lines and checkpoints on the way.

A step is one window, however many micro-batches and processes share it. The GPU is given the next window before the
numbers of the last step are read from it, so that it need not wait while the host takes note of them: a step of a small
model is over in a few milliseconds.
"""

import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import reduce
from torch import Tensor

from dreamtune.device.memory import peak_gib
from dreamtune.progress import Progress
from dreamtune.train.blame import blamed, stop_unless_finite
from dreamtune.train.log import Log
from dreamtune.train.micro_batches import Prefetcher, accumulate, clear_gradients, make_window
from dreamtune.train.optimizer import learning_rate, set_learning_rate, skips_unless_finite
from dreamtune.train.run import Run, save
from dreamtune.train.validation import validate
from dreamtune.train.windows import Window


def fit(run: Run, log: Log) -> None:
    """Run every step that is left of the run or its rung, with validations, log lines and checkpoints on the way.

    Raises:
        UserError: a loss, a gradient or a validation loss is not finite, or a document does not fit into the memory.
        Interrupted: the run was asked to stop. `run.history.step` is the last step that changed the weights.
    """
    train, history, total, last = run.train, run.history, run.windows.total, run.last
    run.model.train()
    if not history.lines:
        validate(run, log)
    progress = Progress("train", last, done=history.step) if run.share.process == 0 else None
    book, last_checkpoint = Book(run, log, progress), time.monotonic()
    under_way: Launched | None = None
    with progress or nullcontext(), Prefetcher(partial(make_window, run), last) as windows:
        for step in range(history.step + 1, last + 1):
            try:
                window, sums = accumulate(run, windows, step)
            finally:  # also where this step is interrupted: the last one has changed the weights
                if under_way:
                    book.enter(under_way)
            run.finetuning.add_up(sums)
            overdue = time.monotonic() - last_checkpoint > 60 * train.checkpoint_minutes
            if run.share.processes > 1:
                overdue = stop_together(run, overdue)
            under_way = launch(run, step, window, sums)
            epoch_ends = step % run.windows.per_counted_epoch == 0 or step == total
            validates = step == total or (step % train.validate_every == 0 if train.validate_every else epoch_ends)
            saves = epoch_ends or overdue or bool(train.checkpoint_steps and step % train.checkpoint_steps == 0)
            if validates or saves or step == last or not under_way.updated:
                book.enter(under_way)
                under_way = None
            if validates:
                validate(run, log)
            if saves:
                save(run)
                last_checkpoint = time.monotonic()
            if validates or saves:
                book.last = time.monotonic()


@dataclass
class Launched:
    """A step that the GPU was given. Its numbers are on their way to the host.

    Attributes:
        step: counted from 1.
        window: its documents.
        rate: its learning rate.
        updated: whether the weights' update was launched, too; it skips itself if a number is not finite.
        numbers: [3 + weights + sources], on the host: the window's sums of w * CE and of CE / t, its gradient's norm,
            that of each trained weight, and the former sum of each source where there are several.
        arrived: what the GPU reaches when they are there; None on a CPU.
    """

    step: int
    window: Window
    rate: float
    updated: bool
    numbers: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> list[float]:
        """Wait for the numbers and return them."""
        if self.arrived:
            self.arrived.synchronize()
        return self.numbers.tolist()  # type: ignore[no-any-return]


def launch(run: Run, step: int, window: Window, sums: Tensor) -> Launched:
    """Clip the window's gradients and, where the device itself can refuse gradients that are not finite, step by them.

    Args:
        run: its gradients are the window's, over all processes.
        step: counted from 1.
        window: its documents.
        sums: [2 + sources] float32, over all processes, see `micro_batches.forward_backward`.
    """
    norms = run.finetuning.gradient_norms()
    norm = run.finetuning.clip(run.train.max_grad_norm, norms)
    seen = torch.cat([sums[:2], norm.to(sums)[None], norms.to(sums), sums[2:]])
    rate = learning_rate(step, run.windows.total, run.train)
    set_learning_rate(run.optimizer, rate)
    if updated := skips_unless_finite(run.optimizer, seen[:3:2]):
        update(run)
    numbers, arrived = seen.to("cpu", non_blocking=True), None  # into pinned memory
    if seen.is_cuda:
        arrived = torch.cuda.Event()
        arrived.record()
    return Launched(step, window, rate, updated, numbers, arrived)


def update(run: Run) -> None:
    """Change the weights by the window's gradients, and clear these."""
    run.optimizer.step()
    clear_gradients(run)


class Book:
    """Enters steps into the history, the log and the progress, in their order, as their numbers arrive.

    Args:
        run: its history receives them.
        log: of the run.
        progress: shown to the user; None shows none.
    """

    def __init__(self, run: Run, log: Log, progress: Progress | None) -> None:
        self.run, self.log, self.progress = run, log, progress
        self.first, self.last = run.history.step + 1, time.monotonic()  # when the last step was entered
        self.names = list(run.finetuning.trained)

    def enter(self, launched: Launched) -> None:
        """Wait for a step's numbers and enter them; update the weights if they were not.

        Raises:
            UserError: the loss or the gradient is not finite; the weights are as before the step.
        """
        run, window, step, names = self.run, launched.window, launched.step, self.names
        (weighted, window_nll, grad_norm), rest = (numbers := launched.read())[:3], numbers[3:]
        gradients, by_source = dict(zip(names, rest, strict=False)), rest[len(names) :]
        window_loss = weighted / window.loss_tokens
        with blamed(run, window.batches, gradients):
            stop_unless_finite(step, window_loss, grad_norm)
        if not launched.updated:
            update(run)
        now = time.monotonic()
        run.history.add_step(
            step=step,
            loss=window_loss,
            nll=window_nll,
            nll_tokens=window.nll_tokens,
            grad_norm=grad_norm,
            gradients=gradients,
            tokens=window.tokens,
            wall_s=now - self.last,
            warm=step > self.first,
            tail_tokens=window.tail_tokens,
            cut_documents=window.cut_documents,
            by_source=run.windows.by_source(by_source, window),
        )
        self.last = now
        if self.progress:
            self.progress.advance(note=f"loss {window_loss:.4f}")
        if step % run.train.log_every == 0 or step == run.windows.total:
            epoch, memory = step / run.windows.per_epoch, peak_gib(run.share.device)
            self.log.write(run.history.line(epoch, launched.rate, memory, window.right_context))


def stop_together(run: Run, overdue: bool) -> bool:
    """Agree over all processes whether to stop and whether to write a checkpoint. Collective.

    A stop signal may reach only some processes; all of them stop after the same step.

    Args:
        overdue: whether, by this process's clock, a checkpoint is overdue.

    Returns:
        whether one is overdue by the first process's clock. All go by it, since saving is collective.

    Raises:
        Interrupted: a process was asked to stop.
    """
    mine = [float(run.stop.received is not None), float(overdue and run.share.process == 0)]
    asked, due = reduce(torch.tensor(mine, device=run.share.device), "sum").tolist()
    if asked and not run.stop.received:
        run.stop.received = signal.SIGTERM  # the signal that torchrun would have passed on
    run.stop.check()
    return bool(due)
