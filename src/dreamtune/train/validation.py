"""Validation: the NLL bound on held-out rows, between the steps of a training and at the end of a rung."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.formats.halving import REACHED, RUNG_FILE
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.loss import loss_sums
from dreamtune.train.blame import NotFinite, blamed
from dreamtune.train.log import Log
from dreamtune.train.run import Run, save


def validate(run: Run, log: Log) -> None:
    """Log the NLL bound (w = 1/t) on the validation rows, in nats per response token, under masks that never change.

    Collective.

    Raises:
        NotFinite: the bound is not finite.
    """
    if not run.validates:
        return
    started, step = time.monotonic(), run.history.step
    nll = validation_nll(run)
    run.history.validation_s += time.monotonic() - started
    log.write({"step": step, "epoch": step / run.windows.per_epoch, "validation_nll": nll})


def validation_nll(run: Run) -> float:
    """Return that bound. Collective.

    Raises:
        NotFinite: it is not finite.
    """
    sums = validation_sums(run)
    if run.share.processes > 1:
        sums = reduce(sums, "sum")
    nll: float = (sums[0] / sums[1]).item()
    if not math.isfinite(nll):
        with blamed(run, run.validation):
            raise NotFinite(f"step {run.history.step}: the validation loss is {nll}; lower train.learning_rate")
    return nll


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


def end_rung(run: Run, train: Callable[[], None], out: Path) -> dict[str, Any]:
    """Train a run to the end of its rung; write its checkpoint, and rung.json with its validation NLL. Collective.

    The history, and so the log of the full run, does not tell that there was a rung. A loss that is not finite ends the
    rung without a checkpoint, and with a NLL of null: it is then decided that the point stops.

    Args:
        run: prepared, and resumed from the rung before.
        train: runs the steps that are left of the rung.
        out: folder for the files.

    Returns:
        what rung.json holds.

    Raises:
        UserError: the run has no validation rows.
    """
    if not run.validates:
        raise UserError(
            "study.halving decides by the validation NLL, and there are no validation rows; raise data.split.validation"
        )
    ended = nll = None
    try:
        train()
        nll = validation_nll(run)
        save(run, out / REACHED)
    except NotFinite as error:
        ended = str(error)
    found = {"step": run.history.step, "steps": run.windows.total, "validation_nll": nll, "ended": ended}
    if run.share.process == 0:
        write_json(out / RUNG_FILE, found)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return found
