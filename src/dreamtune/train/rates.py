"""The range test of smoke on a run: `train.learning_rate: find` becomes a number before the first step."""

import sys
from typing import Any

import torch

from dreamtune.device.phases import phase
from dreamtune.settings.rate import FIND
from dreamtune.smoke.range_test import WINDOWS, range_test
from dreamtune.train.micro_batches import clear_gradients, make_smaller, make_window, window_sums
from dreamtune.train.optimizer import make_optimizer, set_learning_rate
from dreamtune.train.run import Run


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
