"""The canaries of a training run: on its first and its last window, and on what all steps together changed."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from dreamtune.canaries import window as canaries
from dreamtune.canaries.adapter import Trained, all_modules_learn, gradients_steady
from dreamtune.canaries.alignment import rows_aligned
from dreamtune.canaries.leaks import one_of_each_shape
from dreamtune.canaries.right_context import right_context_kept
from dreamtune.canaries.short import shortened
from dreamtune.checks import Check, at
from dreamtune.device.phases import phase
from dreamtune.errors import UserError
from dreamtune.objective.annealing import stages
from dreamtune.objective.packing import Batch
from dreamtune.train.blame import blamed
from dreamtune.train.run import Run

ALIGNED_EPOCHS = 4  # whose masks `rows_aligned` may look at: smoke has 64 rows, which are too few under one mask each
DAMAGED = "the base model is damaged, fetch or make it again"
DIVERGED = "lower train.learning_rate or raise train.warmup"


@phase("canaries")
def run_canaries(run: Run, moment: str) -> list[Check]:
    """Return the checks of the canaries on the first or the last window of the run that can be judged. Collective.

    Every process looks at the whole window.

    Args:
        moment: "first_window", which adds the canaries that need an untouched base, that of annealed attention, and
            micro-batches of the shapes that the first window lacks; or "last_window".

    Raises:
        UserError: no window of the run has a hidden response token, or the loss is not finite.
    """
    steps = range(1, run.windows.total + 1)
    steps = steps if moment == "first_window" else steps[::-1]
    step = next((step for step in steps if canaries.can_be_judged(run.windows.noised(step))), None)
    if step is None:
        raise UserError(
            f"in none of the {len(steps)} steps is a response token hidden, so there is nothing to learn or to judge; "
            "train on more or longer rows, or for more epochs"
        )
    first, batches = moment == "first_window", whole_window(run, step)
    others = one_of_each_shape(first_epochs(run), batches) if first else []
    stored, padding = run.windows.stored(step), run.train.padding_tokens
    causal = run.base.causal  # as the settings ask; the model itself could be wrong
    checks = canaries.check_window(run.model, batches, stored, run.windows.ids, others, padding, causal)
    if any(check["name"] == "loss_finite" and not check["passed"] for check in checks):
        with blamed(run, batches):
            raise UserError(f"loss_finite_{moment}: the loss is not finite; {DAMAGED if first else DIVERGED}")
    if first:
        if run.windows.right_context(1) is not None:
            checks.append(right_context_kept(run.model, batches, run.windows.ids, stages(run.windows.longest)))
        checks.append(run.finetuning.starts_from_base([shortened(batch) for batch in batches]))
        checks.append(rows_aligned(run.model, first_epochs(run, ALIGNED_EPOCHS), every=run.share.synchronous))
    return at(moment, checks)


def training_canaries(run: Run, untrained: Tensor) -> list[Check]:
    """Return the checks of what the whole run did: every module learned, and no gradient exploded. Collective.

    What fails is said on stderr too, so that smoke names the modules before full starts.

    Args:
        untrained: `Finetuning.fingerprints` before the first step.
    """
    history, finetuning = run.history, run.finetuning
    moved = (finetuning.fingerprints() != untrained).any(dim=1).tolist()
    trained = Trained(
        gradients=history.gradients,
        moved=dict(zip(finetuning.trained, moved, strict=True)),
        without=finetuning.without_adapter(),
        steps=history.step,
        learning_rate=run.train.peak_rate,
    )
    checks = [all_modules_learn(trained), gradients_steady(history.grad_norms, history.gradients)]
    for check in checks:
        if check["passed"] is False and run.share.process == 0:
            print(f"{check['name']}: {check['fault']}", file=sys.stderr)
    return checks


def whole_window(run: Run, step: int) -> tuple[Batch, ...]:
    """Return the micro-batches of a step, those of all processes, on this process's device."""
    return run.windows.window(step, replace(run.share, process=0, processes=1), run.plan).batches


def first_epochs(run: Run, epochs: int = 1) -> Iterator[tuple[Batch, ...]]:
    """Yield the micro-batches of each window of the first epochs, also of some that the run does not reach."""
    return (whole_window(run, step) for step in range(1, epochs * run.windows.per_epoch + 1))
