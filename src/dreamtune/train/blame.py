"""Say where a number that is not finite came from, before the run ends with one line."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from accelerate.utils import gather_object

from dreamtune.errors import UserError
from dreamtune.model.modes import evaluation_mode
from dreamtune.model.nonfinite import FINITE, first_nonfinite
from dreamtune.objective.loss import token_losses
from dreamtune.objective.packing import Batch
from dreamtune.train.run import Run


class NotFinite(UserError):
    """A loss, or a gradient norm, that is not finite."""


@contextmanager
def blamed(run: Run, batches: Sequence[Batch], gradients: Mapping[str, float] | None = None) -> Iterator[None]:
    """Add to a UserError of the block where NaN or infinity first appears. Collective, if the block raises.

    Args:
        run: its model is run once more, forward, on the batches.
        batches: this process's, of the window or of the validation in which the number was met.
        gradients: the norm of each trained weight's gradient, over all processes, in the order of the forward pass.
    """
    try:
        yield
    except UserError as error:
        found = where(run, batches)
        # The backward pass begins with the last weight.
        broken = [name for name, norm in (gradients or {}).items() if not math.isfinite(norm)]
        if found == FINITE and broken:
            found = f"every layer's output is finite, and the gradient of {broken[-1]} is not"
        raise type(error)(f"{error}; {found}") from None


def where(run: Run, batches: Sequence[Batch]) -> str:
    """Return in words where NaN or infinity first appears in a forward pass: in a weight or behind a layer. Collective.

    Each process looks at its own batches; the first that finds something is believed.
    """

    def forward() -> None:
        for batch in batches:
            if len(batch.positions) or run.share.synchronous:
                token_losses(run.model, batch)

    with evaluation_mode(run.model):
        found = first_nonfinite(run.model, forward)
    everywhere = gather_object([found]) if run.share.processes > 1 else [found]
    return next((words for words in everywhere if words != FINITE), FINITE)


def stop_unless_finite(step: int, loss: float, grad_norm: float) -> None:
    """Raise `NotFinite` if a window's loss or gradient norm is not finite, before the optimiser uses the gradients.

    Args:
        step: number of the window, from 1.
        loss: in nats per response token.
        grad_norm: before clipping.
    """
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise NotFinite(
            f"step {step}: the loss is {loss}, its gradient norm {grad_norm}; lower train.learning_rate or raise "
            "train.warmup"
        )
