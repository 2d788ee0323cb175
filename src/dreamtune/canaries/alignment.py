"""The canary for a shift that is off by one: does the loss read a prediction where the model makes it?

Dream's head is shifted (hidden row i − 1 predicts token i), LLaDA's is not. Whoever mistakes one for the other, or
pairs rows with the wrong targets, still trains: the loss is finite, falls, and teaches the adapter nonsense. Only a
model that can already predict shows the mistake, so this canary asks the untouched base.

A row *prefers* the token of a place by CE(row, a token from elsewhere in the batch) − CE(row, that token), in nats: how
much it knows about this place. The normaliser of its softmax cancels, so a row that is vague, or sure without reason,
prefers nothing. Compared are the row that the loss reads and its neighbours on both sides, all through `token_losses`
itself. A base that knows nothing (random weights) prefers nothing anywhere, which is no evidence either way.
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

DOCUMENTS = 64  # so many are looked at, if an epoch has them
WINDOWS = 64  # and so many windows are looked through for them: in some data no row can be judged
ENOUGH_DOCUMENTS = 8
PLACES = 64  # at most about twice so many of a document: bounds the rows that pass the head
MARGIN = 0.25  # nats by which a neighbouring row must be the better one
ERRORS = 3.0  # standard errors on each side of the estimate
MOVES = (0, -1, 1)  # the row that the loss reads, the one before, the one after


def rows_aligned(model: nn.Module, windows: Iterable[Sequence[Batch]]) -> Check:
    """Fail if a neighbouring row surely knows the targets better than the row that the loss reads.

    Args:
        model: the base, or a base whose adapter adds nothing yet; it is put into evaluation mode and back.
        windows: of the training path; as many are taken as `DOCUMENTS` need.
    """
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))  # of a document: places, lead over either neighbour
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
    """Return how much more the row that is read prefers its token than the rows before and after it do.

    Returns:
        the example of each place that was looked at, [M], and the two leads in nats, [M, 2].
    """
    places = _places(batch)
    count = len(places)
    if count < 2:  # there is no token from elsewhere
        return [], np.zeros((0, 2))
    chosen = torch.from_numpy(places).to(batch.positions.device)  # [M]
    rows = torch.cat([batch.positions[chosen] + move for move in MOVES])  # [3 M]
    targets = batch.targets[chosen]
    tokens = torch.cat([targets.repeat(3), targets.roll(count // 2).repeat(3)])  # [6 M]
    losses = token_losses(model, replace(batch, positions=rows.repeat(2), targets=tokens))
    own, other = losses.double().cpu().numpy().reshape(2, 3, count)
    read, before, after = other - own  # [M] each
    examples = [batch.rows[row].document.example_id for row in batch.places()[0][places].tolist()]
    return examples, np.stack([read - before, read - after], axis=1)


def _places(batch: Batch) -> np.ndarray:
    """Return the supervised places to look at, indices into `batch.positions`: both neighbours must be in the document.

    The tail is left out (its tokens are all alike), and in a shifted family rows 0 and 1 are the same.
    """
    row, column = batch.places()
    chosen = []
    for number, noised in enumerate(batch.rows):
        end = min(len(noised.document.tokens) - noised.document.tail_tokens, len(noised.document.tokens) - 1)
        inside = np.flatnonzero((row == number) & (column >= 2) & (column < end))
        chosen.append(inside[:: max(1, len(inside) // PLACES)])
    return np.concatenate(chosen)
