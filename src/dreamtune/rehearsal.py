"""The heaviest forward pass that a run can meet, to be tried before its first step."""

import numpy as np
import torch

from dreamtune.batching import TrainingWindows
from dreamtune.diffusion import Document, Noise, corrupt
from dreamtune.packing import Batch, collate
from dreamtune.pass_plan import PassPlan


def heaviest_pass(windows: TrainingWindows, plan: PassPlan, device: torch.device) -> Batch:
    """Return documents of the greatest length that together reach the budget, every token but the first masked."""
    longest, tokens = windows.longest, plan.cut_tokens or plan.micro_batch_tokens
    lengths = [longest] * max(1, min(windows.documents, tokens // longest))
    rest = tokens - sum(lengths)
    if rest > 1 and len(lengths) < windows.documents:
        lengths.append(rest)
    noise = Noise("elbo", 1.0, seed=0, epoch=0, mask_id=windows.ids["mask_id"])
    zeros = (Document(number, np.zeros(length, np.int64), 1, 0) for number, length in enumerate(lengths))
    return collate([corrupt(document, noise) for document in zeros], device)
