"""From hidden rows to a token, a confidence and a probability for each, in parts that bound the logits' memory."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dreamtune.model import apply_head, unwrap
from dreamtune.sampling import choose, rows_per_block, surest, untempered_probability
from dreamtune.settings.generate import GenerateConfig

WIDTH = 16  # rows of a product, columns of a canvas are multiples of this, so that a row's bits depend on it alone
GPU_ROWS = 1024  # that pass the head at once where no table of float64 is made of their logits
Choices = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # token, confidence and probability of each position


def choose_all(
    model: Any, rows: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int
) -> torch.Tensor:
    """Return token, confidence and probability of hidden rows, [3, N] float64, in which a token's number is exact.

    Args:
        model: whose head the rows pass.
        rows: [N, D].
        uniform: [N] float64 inside (0, 1), the noise of each.
        settings: see `sampling.choose`; of the threshold only whether there is one.
        mask_id: never chosen.
    """
    count = len(rows)
    fill = -count % WIDTH
    rows = torch.nn.functional.pad(rows, (0, 0, 0, fill))
    uniform = torch.nn.functional.pad(uniform, (0, fill), value=0.5)
    choose_part, at_once = choose_rows, max(WIDTH, rows_per_block(unwrap(model).config.vocab_size) // WIDTH * WIDTH)
    if rows.device.type == "cuda" and settings.temperature == 0:
        choose_part = _compiled(_surest_rows if _plain(settings) else choose_rows)
        at_once = GPU_ROWS if _plain(settings) else at_once
    parts = [
        torch.stack([part.double() for part in choose_part(apply_head(model, some), numbers, settings, mask_id)])
        for some, numbers in zip(rows.split(at_once), uniform.split(at_once), strict=True)
    ]
    return torch.cat(parts, dim=1)[:, :count]


def choose_rows(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int) -> Choices:
    """Return `choose`'s token and confidence [N] of logits [N, V], and the token's untempered probability [N].

    The probability is computed only where a threshold asks for it; else it is 0.
    """
    tokens, confidence = choose(logits, uniform, settings, mask_id)
    if settings.threshold is None:
        return tokens, confidence, torch.zeros_like(confidence)
    return tokens, confidence, untempered_probability(logits, tokens, mask_id)


def _plain(settings: GenerateConfig) -> bool:
    return settings.order == "entropy" and settings.top_p is None and settings.top_k is None


def _surest_rows(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int) -> Choices:
    return surest(logits, mask_id)


@cache
def _compiled(function: Callable[..., Choices]) -> Callable[..., Choices]:
    """Compiled, it reads the logits and writes no tables of their size."""
    return torch.compile(function, dynamic=True)
