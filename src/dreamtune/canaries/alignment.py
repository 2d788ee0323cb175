"""The canary for a shift that is off by one: does the loss read a prediction where the model makes it?

Dream's head is shifted (hidden row i − 1 predicts token i), LLaDA's is not. A training that mistakes one for the other,
or pairs rows with the wrong targets, still runs: the loss is finite, falls, and teaches the adapter nonsense. Only a
model that can already predict shows the mistake, so this canary looks at the untouched base.

A hidden row's *preference* for the token of a position is CE(row, a token from elsewhere in the batch) − CE(row, that
token), in nats: how much the row knows about this position. The normaliser of the softmax cancels, so a row that is
vague, or sure without reason, has no preference. The canary compares the row that the loss reads with its neighbours
on both sides, all through `token_losses` itself. A base that knows nothing (random weights) has no preference anywhere,
which is no evidence either way.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import nn

from dreamtune.checks import Check, check
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.loss import token_losses
from dreamtune.objective.packing import Batch

DOCUMENTS = 64  # the canary looks at this many documents, if an epoch has them,
WINDOWS = 64  # and for them through at most this many windows: in some data no document can be judged
ENOUGH_DOCUMENTS = 8  # with fewer there is no result
PLACES = 64  # positions looked at in a document, at most about twice as many: bounds the rows that go through the head
MARGIN = 0.25  # nats by which a neighbouring row must be better before the canary fails
ERRORS = 3.0  # standard errors on each side of the estimate
OFFSETS = (0, -1, 1)  # the row that the loss reads, the row before it, the row after it


def rows_aligned(model: nn.Module, windows: Iterable[Sequence[Batch]]) -> Check:
    """Return the check that no neighbouring row surely knows the targets better than the row that the loss reads.

    The check fails if a neighbour is surely better, passes if both are surely worse, and is undecided (None) between.

    Args:
        model: the base, or a base whose adapter adds nothing yet; it is put into evaluation mode and back.
        windows: micro-batches of each window, as training makes them; as many are taken as `DOCUMENTS` need.
    """
    # For each document: positions looked at, and the sums of their leads over the row before and the row after.
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))
    with evaluation_mode(model):
        for batch in (batch for batches in islice(windows, WINDOWS) for batch in batches):
            for example, lead in zip(*leads(model, batch), strict=True):
                sums[example] += [1, *lead]
            if len(sums) >= DOCUMENTS:
                break
    expected = f"not surely below -{MARGIN} nats: no row beside the one that is read knows a token better"
    fault, note = "the loss read its predictions one position off", f"{len(sums)} documents"
    if len(sums) < ENOUGH_DOCUMENTS:
        note = f"not enough data: {note}, needs {ENOUGH_DOCUMENTS}"
        return check("rows_aligned", None, None, expected, fault, note=note)
    table = np.stack(list(sums.values()))  # [documents, 3]
    means = table[:, 1:] / table[:, :1]  # [documents, 2]; documents are independent, their tokens are not
    errors = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    value, error = min(zip(means.mean(axis=0).tolist(), errors.tolist(), strict=True))
    low, high = value - ERRORS * error, value + ERRORS * error
    passed = False if high < -MARGIN else True if low > 0 else None
    return check("rows_aligned", passed, value, expected, fault, low=low, high=high, note=note)


def leads(model: nn.Module, batch: Batch) -> tuple[list[int], np.ndarray]:
    """Return by how much the row that the loss reads leads its neighbours in preference for the target.

    Say the row that is read gives its target a CE of 1 nat and a token from elsewhere 5: its preference is 4. If these
    are 4 and 4.5 for the row before, and 4 and 3 for the row after, their preferences are 0.5 and -1, so the row that
    is read leads by 3.5 and 5 nats. Under a shift that is off by one, one of the two leads is negative.

    Args:
        model: in evaluation mode, without gradients.
        batch: one micro-batch of a window.

    Returns:
        ([M] example ids of the positions that were looked at, [M, 2] leads over the row before and the row after)
    """
    places = _places(batch)
    count = len(places)
    if count < 2:  # there is no token from elsewhere to compare with
        return [], np.zeros((0, 2))
    chosen = torch.from_numpy(places).to(batch.positions.device)  # [M]
    rows = torch.cat([batch.positions[chosen] + offset for offset in OFFSETS])  # [3 M]
    targets = batch.targets[chosen]
    tokens = torch.cat([targets.repeat(3), targets.roll(count // 2).repeat(3)])  # [6 M]
    losses = token_losses(model, replace(batch, positions=rows.repeat(2), targets=tokens))
    own, other = losses.double().cpu().numpy().reshape(2, 3, count)  # [3, M] each
    read, before, after = other - own  # [M] each
    examples = [batch.noised[row].document.example_id for row in batch.places()[0][places].tolist()]
    return examples, np.stack([read - before, read - after], axis=1)


def _places(batch: Batch) -> np.ndarray:
    """Return which supervised positions to look at, as indices [M] into `batch.positions`.

    Both neighbours of a position must lie in its document. The tail is left out, because its tokens are all alike, and
    so is position 1, because rows 0 and 1 are the same in a shifted family.
    """
    row, column = batch.places()
    chosen = []
    for number, noised in enumerate(batch.noised):
        end = min(len(noised.document.tokens) - noised.document.tail_tokens, len(noised.document.tokens) - 1)
        inside = np.flatnonzero((row == number) & (column >= 2) & (column < end))
        chosen.append(inside[:: max(1, len(inside) // PLACES)])
    return np.concatenate(chosen)
