"""Canaries of a causal model: a prediction depends on the tokens before its target, and on nothing else.

They are those of a diffusion model turned round. There, a prediction must not depend on its own target and must depend
on what follows; here it must depend on neither, and on what came before. The hidden rows are read by the loss's own
function, and must keep every bit (see `leaks`).
"""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from dreamtune.canaries.leaks import Count, Watched, other_tokens, rows_at
from dreamtune.model.logits import apply_head
from dreamtune.objective.packing import Batch

CUTS = 4  # places of each document from which on its tokens are replaced


def later_leaks(
    model: nn.Module, batch: Batch, watched: Watched, ids: dict[str, int], reach: int = 0
) -> tuple[Count, Count]:
    """Count the scores that move with their own target, and those that move with tokens after it. CUTS forward passes.

    In each pass a document is cut at one of its supervised tokens, from the first to the last, and all tokens from the
    cut on are replaced. The row that scores the token at the cut may not move, nor may those that score earlier ones
    from which the cut is further away than `reach`.

    Args:
        model: in evaluation mode, without gradients.
        batch: one micro-batch of a causal model.
        watched: its rows as it is.
        ids: special tokens and vocabulary size, as in shards.json.
        reach: later tokens on which a score may depend; 0 for a causal model.

    Returns:
        (scores of the tokens at the cuts, scores of earlier tokens)
    """
    own, behind = Count(), Count()
    replaced = batch.input_ids.new_tensor(other_tokens(batch.input_ids.cpu().numpy(), ids))
    positions = watched.positions.cpu().numpy()  # [W]
    for share in np.linspace(0, 1, CUTS):
        altered, cuts = batch.input_ids.clone(), np.full(len(batch.noised), -1)
        for number, (start, noised) in enumerate(zip(batch.starts, batch.noised, strict=True)):
            supervised = np.flatnonzero(noised.supervised)
            if len(supervised):
                cuts[number] = start + supervised[round(share * (len(supervised) - 1))]
                span = slice(cuts[number], start + len(noised.input_ids))
                altered[span] = replaced[span]
        rows = rows_at(model, replace(batch, input_ids=altered), watched.positions)
        differ = (watched.rows != rows).any(dim=-1).cpu().numpy()
        at, before = positions == cuts[watched.documents], positions < cuts[watched.documents] - reach  # [W]
        own += Count(int((differ & at).sum()), int(at.sum()))
        behind += Count(int((differ & before).sum()), int(before.sum()))
    return own, behind


def forgetful_scores(model: nn.Module, batch: Batch, watched: Watched, ids: dict[str, int]) -> Count:
    """Count the predictions that do not depend on the tokens before the last one that they may see. One forward pass.

    It looks at the last supervised token of each document. The token before it stays, since a row that sees nothing but
    its own input changes with that; all earlier ones are replaced, and the logits must change.
    """
    altered, places = batch.input_ids.clone(), []
    replaced = batch.input_ids.new_tensor(other_tokens(batch.input_ids.cpu().numpy(), ids))
    for start, noised in zip(batch.starts, batch.noised, strict=True):
        supervised = np.flatnonzero(noised.supervised)
        if len(supervised) and supervised[-1] >= 2:
            place = start + int(supervised[-1])
            altered[start : place - 1] = replaced[start : place - 1]
            places.append(place)
    if not places:
        return Count()
    positions = torch.tensor(places, device=altered.device)  # [P]
    before = apply_head(model, watched.rows[torch.searchsorted(watched.positions, positions)])  # [P, V]
    after = apply_head(model, rows_at(model, replace(batch, input_ids=altered), positions))
    return Count(int((before == after).all(dim=-1).sum()), len(places))
