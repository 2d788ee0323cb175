"""Validation: the NLL bound on held-out rows, between the steps of a training."""

import math
import time

import torch
from accelerate.utils import reduce
from torch import Tensor

from dreamtune.errors import UserError
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.loss import loss_sums
from dreamtune.train.blame import blamed
from dreamtune.train.log import Log
from dreamtune.train.run import Run


def validate(run: Run, log: Log) -> None:
    """Log the NLL bound (w = 1/t) on the validation rows, in nats per response token, under masks that never change.

    Collective.

    Raises:
        UserError: the bound is not finite.
    """
    if not run.validates:
        return
    started = time.monotonic()
    sums = validation_sums(run)
    if run.share.processes > 1:
        sums = reduce(sums, "sum")
    step, validation_nll = run.history.step, (sums[0] / sums[1]).item()
    run.history.validation_s += time.monotonic() - started
    if not math.isfinite(validation_nll):
        with blamed(run, run.validation):
            raise UserError(f"step {step}: the validation loss is {validation_nll}; lower train.learning_rate")
    log.write({"step": step, "epoch": step / run.windows.per_epoch, "validation_nll": validation_nll})


def validation_sums(run: Run) -> Tensor:
    """Return this process's share of the bound and of the response tokens it is about: [2] float64, nats and tokens."""
    sums = torch.zeros(2, dtype=torch.float64, device=run.share.device)
    with evaluation_mode(run.model):
        for batch in run.validation:
            if run.share.processes == 1:
                run.stop.check()
            tokens = sum(row.nll_tokens for row in batch.noised)
            nll = loss_sums(run.model, batch)[1].item() if len(batch.positions) or run.share.synchronous else 0.0
            sums += torch.tensor([nll, tokens], dtype=torch.float64, device=run.share.device)
    return sums
