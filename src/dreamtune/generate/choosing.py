"""From hidden rows of masked positions to a token for each, and a confidence that ranks it against the others.

The official Dream sampler (Dream-org, generation_utils.py) does both on the tempered and filtered distribution, which
`ranking: official` keeps. After a low temperature every position looks sure, the ranking becomes arbitrary and the
text is written nearly left to right; `untempered` ranks on what the model said. At temperature 0 without filters the
two are the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dreamtune.model.logits import apply_head, unwrap
from dreamtune.settings.generate import GenerateConfig

# Two positions whose probabilities round to 1.0 in float32 would be ranked by chance. [N, V] numbers of 8 bytes.
PRECISE = torch.float64
MAX_ELEMENTS = 2**25  # of one [N, V] block
# Rows of a product, columns of a canvas are multiples of WIDTH, so that a row's bits depend on it alone.
WIDTH = 16
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


def rows_per_block(vocabulary: int) -> int:
    """Return how many positions are looked at together, to bound the memory: some 1 GB with its temporaries."""
    return max(1, MAX_ELEMENTS // vocabulary)


def choose(
    logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a token and its confidence for each position.

    Args:
        logits: [N, V].
        uniform: [N] float64 inside (0, 1), the noise of each position; unused at temperature 0.
        settings: order, ranking, temperature, top_p and top_k.
        mask_id: never chosen, and left out of the probabilities.

    Returns:
        tokens [N] int64, and confidence [N] float64: higher is revealed earlier.
    """
    logits = _without(logits, mask_id)  # [N, V]
    filtered = logits / settings.temperature if settings.temperature > 0 else logits
    filtered = _keep_likely(filtered, settings.top_p, settings.top_k)
    # The official sampler filters at temperature 0 too, which cannot change the likeliest token, only the ranking.
    tokens = _sample(filtered, uniform) if settings.temperature > 0 else filtered.argmax(dim=-1)
    ranked = filtered if settings.ranking == "official" else logits
    return tokens, _confidence(ranked.softmax(dim=-1), tokens, settings.order)


def untempered_probability(logits: torch.Tensor, tokens: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Return the probability [N] float64 that the model itself gives to each token [N], the mask token left out.

    Of logits [N, V], which stay as they are.
    """
    logits = _without(logits, mask_id)
    return (logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)).exp()


def surest(logits: torch.Tensor, mask_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `choose` and `untempered_probability` return greedily, ranked by entropy, without PRECISE numbers.

    With the largest logit at 0 and S the sum of all other exponentials, the likeliest token has probability
    1 / (1 + S), and the entropy is log(1 + S) − Σ z·exp(z) / (1 + S). No sum cancels, so float32 keeps apart what is
    nearly sure, at the speed of reading the logits. (The official sampler's 1e-10 inside the logarithm is left out.)

    Args:
        logits: [N, V].
        mask_id: never chosen, and left out of the probabilities.

    Returns:
        tokens [N] int64, minus their entropy in nats and their probability, both [N] float32.
    """
    columns = torch.arange(logits.shape[-1], device=logits.device)
    top, tokens = logits.float().masked_fill(columns == mask_id, -torch.inf).max(dim=-1)
    others = (columns != mask_id) & (columns != tokens[:, None])  # [N, V]
    below = logits.float() - top[:, None]
    weight = torch.where(others, below.exp(), 0)
    rest = weight.sum(dim=-1)
    spread = torch.where(others, weight * below, 0).sum(dim=-1)
    return tokens, spread / (1 + rest) - rest.log1p(), 1 / (1 + rest)


def _without(logits: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Return the logits in `PRECISE`, that of the mask token at −inf; out of place, so that a compiler can fuse it."""
    return logits.to(PRECISE).masked_fill(torch.arange(logits.shape[-1], device=logits.device) == mask_id, -torch.inf)


def _keep_likely(logits: torch.Tensor, top_p: float | None, top_k: int | None) -> torch.Tensor:
    """Set to −inf all but the likeliest tokens: up to and including the one that reaches top_p, at most top_k."""
    if top_p is None and top_k is None:
        return logits
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)  # [N, V]
    drop = torch.zeros_like(ranked, dtype=torch.bool)
    if top_p is not None:
        probabilities = ranked.softmax(dim=-1)
        drop |= probabilities.cumsum(dim=-1) - probabilities > top_p
    if top_k is not None:
        drop[:, top_k:] = True
    drop[:, 0] = False
    return torch.empty_like(logits).scatter_(-1, order, ranked.masked_fill(drop, -torch.inf))


def _sample(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return for each row the token at which the cumulative probability first exceeds its uniform number."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # [N, V]
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def _confidence(probabilities: torch.Tensor, tokens: torch.Tensor, order: str) -> torch.Tensor:
    if order == "entropy":
        return (probabilities * (probabilities + 1e-10).log()).sum(dim=-1)  # 1e-10: as the official sampler
    if order == "topk_margin":
        two = probabilities.topk(2, dim=-1).values
        return two[:, 0] - two[:, 1]
    return probabilities.gather(-1, tokens[:, None]).squeeze(-1)
