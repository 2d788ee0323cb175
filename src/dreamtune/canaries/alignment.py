"""The canary for a shift that is off: does the loss read a prediction where the model makes it?

Dream's head is shifted (hidden row i − 1 predicts token i), LLaDA's is not. A training that mistakes one for the other,
or pairs rows with the wrong targets, still runs: the loss is finite, falls, and teaches the adapter nonsense. Only a
model that can already predict shows the mistake, so this canary looks at the untouched base.

A hidden row's *preference* for the token of a position is CE(row, a token from elsewhere in the batch) − CE(row, that
token), in nats: how much the row knows about this position. The normaliser of the softmax cancels, so a row that is
vague, or sure without reason, has no preference. The canary compares the row that the loss reads with its neighbours,
up to `REACH` positions to either side, all through the function by which the loss takes its rows. A base that knows
nothing (random weights) has no preference anywhere, which is no evidence either way.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from scipy.special import stdtrit
from torch import nn

from dreamtune.checks import Check, check
from dreamtune.device.phases import phase
from dreamtune.model.logits import apply_head
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.loss import HEAD_ROWS, supervised_rows
from dreamtune.objective.packing import Batch

DOCUMENTS = 256  # the canary looks at this many documents at most, one with another mask counting again,
WINDOWS = 128  # and for them through at most this many windows: in some data no document can be judged
ENOUGH_DOCUMENTS = 8  # with fewer there is no result
FEW_DOCUMENTS, TOKENS = 32, 2**16  # long documents: it stops at this many tokens, if there were that many documents
PLACES = 64  # positions looked at in a document, at most about twice as many: bounds the rows that go through the head
SURELY = 0.5  # nats by which the row that is read must lead all others for the canary to end early
MARGIN = 0.25  # nats by which a neighbouring row must be better before the canary fails
LEVEL = 1e-3  # probability, over all neighbours, that chance alone makes one surely better
REACH = 4  # positions: how far off the shift may be that the canary still finds
OFFSETS = tuple(offset for offset in range(-REACH, REACH + 1) if offset)  # of the neighbours from the row that is read


@phase("alignment")
def rows_aligned(model: nn.Module, windows: Iterable[Sequence[Batch]], every: bool = False) -> Check:
    """Return the check that no neighbouring row surely knows the targets better than the row that the loss reads.

    The check fails if a neighbour is surely better, passes if all are surely worse, and is undecided (None) between. It
    is made each time the number of documents has doubled, and ends there if it passes by far: only that comes early.

    Args:
        model: the base, or a base whose adapter adds nothing yet; it is put into evaluation mode and back.
        windows: micro-batches of each window, as training makes them, of several epochs where one has few documents;
            as many are taken as `DOCUMENTS` need.
        every: never end early, as processes need that run together and might not agree.
    """
    # For each document and offset: the number of leads, and their sum.
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros((2, len(OFFSETS))))
    seen, tokens, look = 0, 0, ENOUGH_DOCUMENTS
    with evaluation_mode(model):
        for batch in (batch for batches in islice(windows, WINDOWS) for batch in batches):
            examples, found = leads(model, batch)
            for example, lead in zip(examples, found, strict=True):
                sums[example] += [~np.isnan(lead), np.nan_to_num(lead)]
            seen, tokens = seen + len(set(examples)), tokens + len(batch.input_ids)
            if seen >= DOCUMENTS or (seen >= FEW_DOCUMENTS and tokens >= TOKENS):
                break
            if not every and len(sums) >= look:
                look = 2 * len(sums)
                if (found_so_far := _check(sums))["passed"] and found_so_far["low"] > SURELY:
                    break
    return _check(sums)


def _check(sums: Mapping[int, np.ndarray]) -> Check:
    return aligned(
        np.array(list(sums.values())).reshape(-1, 2, len(OFFSETS)),
        f"not surely below -{MARGIN} nats: no row beside the one that is read knows a token better",
        "the loss read its predictions at the wrong position, so it trains the model to say a neighbouring token",
    )


def aligned(sums: np.ndarray, expected: str, fault: str) -> Check:
    """Return the check `rows_aligned` of the leads that were measured; `value` is the smallest mean lead, in nats.

    Args:
        sums: [documents, 2, offsets], for each document and offset the number of leads and their sum. Documents are
            independent, their tokens are not, so a document's mean lead is one observation.
        expected, fault: see `check`.
    """
    note, name = f"{len(sums)} documents", "rows_aligned"
    if len(sums) < ENOUGH_DOCUMENTS:
        return check(name, None, None, expected, fault, note=f"not enough data: {note}, needs {ENOUGH_DOCUMENTS}")
    bounds = []  # (mean, low, high) of each offset
    for counts, leads_of_offset in zip(*sums.transpose(1, 2, 0), strict=True):
        means = leads_of_offset[counts > 0] / counts[counts > 0]  # [documents that have this neighbour]
        if len(means) >= ENOUGH_DOCUMENTS:
            quantile = -float(stdtrit(len(means) - 1, LEVEL / len(OFFSETS)))  # Student's t: 3.9 for 64 documents
            mean, error = float(means.mean()), quantile * float(means.std(ddof=1)) / math.sqrt(len(means))
            bounds.append((mean, mean - error, mean + error))
    if not bounds:
        return check(name, None, None, expected, fault, note=f"not enough data: {note} are too short")
    value, low, high = min(bounds, key=lambda bound: bound[2])  # the neighbour that most surely knows better
    passed = False if high < -MARGIN else True if all(bound[1] > 0 for bound in bounds) else None
    return check(name, passed, value, expected, fault, low=low, high=high, note=note)


def leads(model: nn.Module, batch: Batch) -> tuple[list[int], np.ndarray]:
    """Return by how much the row that the loss reads leads its neighbours in preference for the target.

    Say the row that is read gives its target a CE of 1 nat and a token from elsewhere 5: its preference is 4. If these
    are 4 and 4.5 for the row before, and 4 and 3 for the row after, their preferences are 0.5 and -1, so the row that
    is read leads by 3.5 and 5 nats. Under a shift that is off, the lead over some neighbour is negative.

    Args:
        model: in evaluation mode, without gradients.
        batch: one micro-batch of a window.

    Returns:
        ([M] example ids of the positions that were looked at, [M, offsets] leads over the rows at `OFFSETS`, NaN where
        that row lies outside of the document)
    """
    places = _places(batch)
    count = len(places)
    if count < 2:  # there is no token from elsewhere to compare with
        return [], np.zeros((0, len(OFFSETS)))
    documents, columns = (numbers[places] for numbers in batch.places())  # [M] each
    lengths = np.array([len(batch.noised[number].input_ids) for number in documents])
    neighbours = columns + np.array(OFFSETS)[:, None]  # [offsets, M]
    inside = (neighbours >= 1) & (neighbours < lengths)  # row 0 is another document's in a shifted family
    steps = np.vstack([np.zeros((1, count), int), np.where(inside, np.array(OFFSETS)[:, None], 0)])  # [1 + offsets, M]
    chosen = torch.from_numpy(places).to(batch.positions.device)  # [M]
    rows = (batch.positions[chosen] + torch.from_numpy(steps).to(chosen.device)).flatten()
    targets, kinds = batch.targets[chosen], len(steps)
    elsewhere = targets.roll(count // 2)
    logits = _logits(model, batch, rows, torch.stack([targets, elsewhere], dim=1).repeat(kinds, 1))  # [kinds * M, 2]
    preferences = (logits[:, 0] - logits[:, 1]).cpu().numpy().reshape(kinds, count)  # the softmax's normaliser cancels
    read, *beside = preferences  # [M] each
    examples = [batch.noised[number].document.example_id for number in documents]
    return examples, np.where(inside, read - np.array(beside), np.nan).T


def _logits(model: nn.Module, batch: Batch, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits of some tokens in the rows that the loss would read for some positions, [R, K] float64.

    Args:
        model: in evaluation mode, without gradients.
        batch: one micro-batch.
        rows: [R] positions in the packed row, in which one may occur often: it goes through the head once.
        tokens: [R, K].
    """
    different, place = rows.unique(return_inverse=True)  # [U], [R]
    hidden = supervised_rows(model, replace(batch, positions=different))  # [U, D]
    found = torch.empty(tokens.shape, dtype=torch.float64, device=tokens.device)
    for first in range(0, len(hidden), HEAD_ROWS):
        chunk = apply_head(model, hidden[first : first + HEAD_ROWS])  # [<= HEAD_ROWS, V]
        inside = (place >= first) & (place < first + len(chunk))
        found[inside] = chunk[(place[inside] - first)[:, None], tokens[inside]].double()
    return found


def _places(batch: Batch) -> np.ndarray:
    """Return which supervised positions to look at, as indices [M] into `batch.positions`.

    Both adjacent positions must lie in the document. The tail is left out, because its tokens are all alike, and
    so is position 1, because rows 0 and 1 are the same in a shifted family.
    """
    row, column = batch.places()
    chosen = []
    for number, noised in enumerate(batch.noised):
        end = min(len(noised.document.tokens) - noised.document.tail_tokens, len(noised.document.tokens) - 1)
        inside = np.flatnonzero((row == number) & (column >= 2) & (column < end))
        chosen.append(inside[:: max(1, len(inside) // PLACES)])
    return np.concatenate(chosen)
