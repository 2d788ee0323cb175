"""What the model sees and says while the likelihood of a batch is measured, taken at the model's own boundary.

Hooks on its body and its head tell which tokens it was shown, which hidden rows went through the head, and which logits
came out, while `summed_cross_entropy` runs as it does for the result: nothing is assumed of the code in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dreamtune.canaries.alignment import OFFSETS
from dreamtune.evaluate import elbo
from dreamtune.evaluate.elbo import AT_ONCE, Job
from dreamtune.model.logits import apply_head, unwrap

PLACES = 16  # positions of a job whose rows are compared with their neighbours, at most about twice as many


@dataclass
class Seen:
    """What the model was shown and said in one call of `summed_cross_entropy`."""

    sums: np.ndarray  # [B] float64, what the call returned
    shown: Tensor  # [B, L] the input
    hidden: Tensor  # [B, L, D] the hidden states as the model's body gave them, before any shift
    rows: Tensor  # [M, D] the hidden rows that went through the head, by job and masked position
    losses: Tensor  # [M] cross entropy of the token at each masked position under its row, float32


def see(model: Any, jobs: Sequence[Job], mask_id: int | None) -> Seen:
    """Call `summed_cross_entropy` and return what went in and out of the model.

    Args:
        model: from `dreamtune.model.loading`, with or without an adapter.
        jobs: one batch.
        mask_id: see `summed_cross_entropy`.
    """
    shown: list[Tensor] = []
    hidden: list[Tensor] = []
    rows: list[Tensor] = []
    losses: list[Tensor] = []
    targets = torch.tensor([job.example.tokens[job.example.prompt + place] for job in jobs for place in job.masked])

    def body(_: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        shown.append(named["input_ids"] if "input_ids" in named else given[0])
        hidden.append(output.last_hidden_state)

    def head(_: Any, given: Any, logits: Tensor) -> None:
        first = sum(map(len, rows))
        rows.append(given[0])
        tokens = targets[first : first + len(logits)].to(logits.device)
        losses.append(cross_entropy(logits.float(), tokens, reduction="none"))

    base = unwrap(model)
    hooks = [base.model.register_forward_hook(body, with_kwargs=True), base.lm_head.register_forward_hook(head)]
    try:
        sums = elbo.summed_cross_entropy(model, jobs, mask_id)
    finally:
        for hook in hooks:
            hook.remove()
    return Seen(sums, *(torch.cat(parts) for parts in (shown, hidden, rows, losses)))


def row_leads(model: Any, jobs: Sequence[Job], seen: Seen, causal: bool = False) -> np.ndarray:
    """Return by how much the rows that were read lead their neighbours in preference for their token, by job.

    This is `canaries.alignment.leads`, for rows that are found again among the hidden states by their bits. At most
    `PLACES` positions of a job are looked at, and only jobs of which at most half is masked: with less to go by, no row
    knows much.

    Args:
        model: as it was when `seen` was seen.
        causal: whether the model is causal; its jobs mask nothing, so all are looked at.

    Returns:
        [jobs, 2, offsets]: for each of `OFFSETS` the number of leads, and their sum in nats.
    """
    owner = owners(jobs)
    few = np.array([causal or 2 * len(job.masked) <= job.example.response for job in jobs])
    first = np.searchsorted(owner, np.arange(len(jobs)))
    chosen = [
        start + np.arange(0, len(job.masked), max(1, len(job.masked) // PLACES))
        for job, start, looked_at in zip(jobs, first, few, strict=True)
        if looked_at
    ]
    found = np.zeros((len(jobs), 2, len(OFFSETS)))
    if not chosen or len(places := np.concatenate(chosen)) < 2:
        return found
    device, mine = seen.rows.device, owner[places]  # [C] the job of each place that is looked at
    job_of = torch.from_numpy(mine).to(device)
    same = _bits(seen.hidden)[job_of] == _bits(seen.rows[torch.from_numpy(places).to(device)])[:, None]  # [C, L]
    read, known = same.int().argmax(dim=-1), same.any(dim=-1)  # [C] index of the row among its job's hidden states
    lengths = torch.tensor([len(job.example.tokens) for job in jobs], device=device)[job_of]
    at = read[:, None] + torch.tensor([0, *OFFSETS], device=device)  # [C, 1 + offsets]
    inside = (at >= 0) & (at < lengths[:, None]) & known[:, None]
    rows = seen.hidden[job_of[:, None], torch.where(inside, at, read[:, None])]  # [C, 1 + offsets, D]
    tokens = np.array([job.example.tokens[job.example.prompt + place] for job in jobs for place in job.masked])[places]
    pair = torch.from_numpy(np.stack([tokens, np.roll(tokens, len(tokens) // 2)], axis=1)).to(device)  # [C, 2]
    pairs = pair[:, None].expand(-1, at.shape[1], -1).flatten(0, 1)  # own token, and one from elsewhere
    chunks = zip(rows.flatten(0, 1).split(AT_ONCE), pairs.split(AT_ONCE), strict=True)
    logits = torch.cat([apply_head(model, h).gather(-1, t).float() for h, t in chunks])  # [C * (1 + offsets), 2]
    prefers = (logits[:, 0] - logits[:, 1]).view(at.shape)
    leads = torch.where(inside, prefers[:, :1] - prefers, 0.0)[:, 1:].double().cpu().numpy()
    np.add.at(found[:, 0], mine, inside[:, 1:].cpu().numpy())
    np.add.at(found[:, 1], mine, leads)
    return found


def _bits(rows: Tensor) -> Tensor:
    """Return a number for each row [..., D] that is the same for rows of the same bits: [...] int64."""
    whole = rows.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    # Successive powers, so that a permutation of a row has another number; integers wrap around, and never round.
    return (whole.long() * torch.arange(1, rows.shape[-1] + 1, device=rows.device)).sum(dim=-1)


def visible_targets(seen: Seen, jobs: Sequence[Job], mask_id: int) -> np.ndarray:
    """Return for each masked position whether the model was shown another token than the mask there, [M] bool."""
    columns = torch.tensor([job.example.prompt + place for job in jobs for place in job.masked])
    return (seen.shown[torch.from_numpy(owners(jobs)), columns] != mask_id).cpu().numpy()


def owners(jobs: Sequence[Job]) -> np.ndarray:
    """Return the number of the job of each masked position, [M], in the order in which they go through the head.

    >>> from dreamtune.evaluate.examples import Example
    >>> example = Example(7, (1, 2, 3, 4), prompt=1)
    >>> owners([Job(example, 0, (0, 2)), Job(example, 1, (1,))]).tolist()
    [0, 0, 1]
    """
    return np.repeat(np.arange(len(jobs)), [len(job.masked) for job in jobs])
