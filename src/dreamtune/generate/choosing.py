"""Choose a token for each masked position, and a confidence by which the positions are ranked.

The official Dream sampler (Dream-org, generation_utils.py) takes both from the distribution after temperature and
filtering; `ranking: official` does so too. But after a low temperature every position looks sure, the ranking becomes
arbitrary and the text is written nearly left to right. `ranking: untempered` ranks by the model's own distribution. At
temperature 0 without filters the two are the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dreamtune.model.logits import apply_head, unwrap
from dreamtune.settings.generate import GenerateConfig

# In float32, probabilities of two positions can both round to 1.0, and their ranking would be arbitrary.
PRECISE = torch.float64
MAX_ELEMENTS = 2**25  # logits [N, V] held at once in PRECISE
# The rows of a matrix product, and the columns of a canvas, are filled up to a multiple of WIDTH: the bits of a row
# then do not depend on how many others are computed with it.
WIDTH = 16
GPU_ROWS = 1024  # hidden rows that pass the head at once where their logits need not be held in PRECISE
Chosen = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # token, confidence and probability of each position, [N]


def choose_all(
    model: Any, rows: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int
) -> torch.Tensor:
    """Return the chosen token, its confidence and its probability for each hidden row, [3, N] float64.

    Token ids are whole numbers, which float64 holds exactly.

    Args:
        model: the model whose head turns the rows into logits.
        rows: [N, D] hidden states.
        uniform: [N] float64 inside (0, 1), the noise of each row.
        settings: see `choose`; the probability is computed only where sure tokens are revealed, else it is 0.
        mask_id: the mask token, which is never chosen.
    """
    count = len(rows)
    fill = -count % WIDTH
    rows = torch.nn.functional.pad(rows, (0, 0, 0, fill))
    uniform = torch.nn.functional.pad(uniform, (0, fill), value=0.5)
    choose_chunk, at_once = choose_rows, max(WIDTH, rows_per_block(unwrap(model).config.vocab_size) // WIDTH * WIDTH)
    if rows.device.type == "cuda" and settings.temperature == 0:
        choose_chunk = _compiled(_surest_rows if _plain(settings) else choose_rows)
        at_once = GPU_ROWS if _plain(settings) else at_once
    chosen = [
        torch.stack([found.double() for found in choose_chunk(apply_head(model, chunk), noise, settings, mask_id)])
        for chunk, noise in zip(rows.split(at_once), uniform.split(at_once), strict=True)
    ]
    return torch.cat(chosen, dim=1)[:, :count]


def choose_rows(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int) -> Chosen:
    """Return the token and confidence that `choose` gives, and the token's untempered probability, each [N].

    The probability is computed only where sure tokens are revealed, else it is 0.

    Args:
        logits: [N, V].
        uniform: [N], see `choose`.
    """
    tokens, confidence = choose(logits, uniform, settings, mask_id)
    if not settings.reveals_sure:
        return tokens, confidence, torch.zeros_like(confidence)
    return tokens, confidence, untempered_probability(logits, tokens, mask_id)


def _plain(settings: GenerateConfig) -> bool:
    """Whether `surest` applies at temperature 0: ranked by entropy, without filters."""
    return settings.order == "entropy" and settings.top_p is None and settings.top_k is None


def _surest_rows(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int) -> Chosen:
    """`surest`, with the arguments of `choose_rows`."""
    return surest(logits, mask_id)


@cache
def _compiled(function: Callable[..., Chosen]) -> Callable[..., Chosen]:
    """Return the compiled function, which reads the logits and holds no other array of their size."""
    return torch.compile(function, dynamic=True)


def rows_per_block(vocabulary: int) -> int:
    """Return how many positions to choose for at once: MAX_ELEMENTS logits take about 1 GB with all temporaries."""
    return max(1, MAX_ELEMENTS // vocabulary)


def choose(
    logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a token and its confidence for each position.

    Args:
        logits: [N, V].
        uniform: [N] float64 inside (0, 1), the noise of each position; unused at temperature 0.
        settings: order, ranking, temperature, top_p and top_k.
        mask_id: the mask token, which is never chosen and has no part in the probabilities.

    Returns:
        tokens [N] int64, and confidence [N] float64: positions of higher confidence are revealed earlier.
    """
    logits = _without(logits, mask_id)  # [N, V]
    filtered = _tempered(logits, settings)
    # The official sampler filters at temperature 0 too, which cannot change the likeliest token, only the ranking.
    tokens = _sample(filtered, uniform) if settings.temperature > 0 else filtered.argmax(dim=-1)
    ranked = filtered if settings.ranking == "official" else logits
    return tokens, _confidence(ranked.softmax(dim=-1), tokens, settings.order)


def next_tokens(logits: torch.Tensor, uniform: torch.Tensor, settings: GenerateConfig) -> torch.Tensor:
    """Return the next token of each row of a causal model's logits, [N] int64: the likeliest at temperature 0.

    Args:
        logits: [N, V].
        uniform: [N] float64 inside (0, 1), the noise of each row; unused at temperature 0.
        settings: temperature, top_p and top_k.
    """
    if settings.temperature == 0:
        return logits.float().argmax(dim=-1)
    return _sample(_tempered(logits.to(PRECISE), settings), uniform)


def untempered_probability(logits: torch.Tensor, tokens: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Return the probability of each token before temperature and filtering, the mask token left out, [N] float64.

    Args:
        logits: [N, V].
        tokens: [N] int64.
        mask_id: the mask token.
    """
    logits = _without(logits, mask_id)
    return (logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)).exp()


def surest(logits: torch.Tensor, mask_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the likeliest token, minus the entropy, and the token's probability, computed in float32.

    The same function as `choose` (temperature 0, order `entropy`, no filters) and `untempered_probability`, but faster.
    With the largest logit at 0 and S the sum of all other exponentials, the likeliest token has probability
    1 / (1 + S), and the entropy is log(1 + S) − Σ z·exp(z) / (1 + S). No sum cancels, so float32 keeps apart what is
    nearly sure, at the speed of reading the logits. The official sampler's 1e-10 inside the logarithm is left out.

    Args:
        logits: [N, V].
        mask_id: the mask token, which is never chosen and has no part in the probabilities.

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
    """Return the logits in `PRECISE`, with −inf for the mask token; out of place, so that a compiler can fuse it."""
    return logits.to(PRECISE).masked_fill(torch.arange(logits.shape[-1], device=logits.device) == mask_id, -torch.inf)


def _tempered(logits: torch.Tensor, settings: GenerateConfig) -> torch.Tensor:
    """Return the logits [N, V] divided by the temperature, if that is not 0, and filtered by top-p and top-k."""
    divided = logits / settings.temperature if settings.temperature > 0 else logits
    return _keep_likely(divided, settings.top_p, settings.top_k)


def _keep_likely(logits: torch.Tensor, top_p: float | None, top_k: int | None) -> torch.Tensor:
    """Return the logits [N, V] with −inf for all tokens that top-p or top-k filtering excludes.

    Top-p keeps the likeliest tokens up to and including the one with which their total probability reaches top_p.
    """
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
    """Return for each row of logits [N, V] the token at which its cumulative probability first exceeds `uniform`."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)  # [N, V]
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def _confidence(probabilities: torch.Tensor, tokens: torch.Tensor, order: str) -> torch.Tensor:
    """Return the measure that `order` ranks by, [N]: minus the entropy, the margin, or the token's probability."""
    if order == "entropy":
        return (probabilities * (probabilities + 1e-10).log()).sum(dim=-1)  # 1e-10: as the official sampler
    if order == "topk_margin":
        two = probabilities.topk(2, dim=-1).values
        return two[:, 0] - two[:, 1]
    return probabilities.gather(-1, tokens[:, None]).squeeze(-1)
