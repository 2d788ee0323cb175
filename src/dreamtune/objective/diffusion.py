"""The objective: which tokens are hidden, and what it costs to predict them.

Masked diffusion (Sahoo et al. 2024, Shi et al. 2024) draws a mask rate t for a document, replaces each *response*
token by the mask token with probability t, and predicts the replaced ones. One optimiser step minimises

    sum of w * CE over the masked tokens / number of response tokens,

both sums over the whole window of `global_batch` documents. With w = 1/t this is an upper bound (ELBO) on the
negative log-likelihood, in nats per response token; whatever w is trained, the bound is what is reported.

Nothing here is drawn from a generator that advances. Every random choice is a hash of what it belongs to, so that
micro-batch, number of processes and resuming cannot enter it.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dreamtune.noise import uniforms

GOLDEN_RATIO = 0.6180339887  # steps of this size fill [0, 1) more evenly than chance, for every number of steps
MIN_RATE = 1e-3  # bounds the weight 1/t
CART_P = 0.3
CART_REACH = 64  # beyond it a visible token adds less than (1 - 0.3)^64 = 1e-10


class Draw(IntEnum):
    """What a hash is drawn for, so that two uses of the same numbers never coincide."""

    ORDER = 1
    RATE = 2
    MASK = 3
    TAIL = 4
    DROPOUT = 5


@dataclass(frozen=True)
class Document:
    """One example as it is trained: prompt, response, its end token and a tail of further end tokens."""

    example_id: int
    tokens: np.ndarray  # [L] int64
    prompt_tokens: int  # leading tokens that are given, the beginning token included
    tail_tokens: int  # end tokens after the first; in the loss, never in the reported likelihood


@dataclass(frozen=True)
class Noise:
    """All that decides how a document is corrupted, except the document: the same noise hides the same positions."""

    objective: str  # elbo, cart, uniform or copy
    rate: float  # t, the probability with which the mask hides a response token
    seed: int
    epoch: int
    mask_id: int
    draw: int = 0
    complement: bool = False  # hide what the mask would show, and so with probability 1 - t


@dataclass(frozen=True)
class Noised:
    """A corrupted document. All arrays are [L]; `weights` and `elbo_weights` are 0 wherever nothing is supervised."""

    document: Document
    noise: Noise
    input_ids: np.ndarray  # int64, what the model sees
    supervised: np.ndarray  # bool, positions that are predicted
    weights: np.ndarray  # float32, w of the trained loss
    elbo_weights: np.ndarray  # float32, 1/t up to the first end token
    loss_tokens: int  # what this document adds to the denominator of the loss
    nll_tokens: int  # the same for the reported bound; 0 where nothing was hidden, and so no bound exists


def mask_rates(places: np.ndarray, seed: int, epoch: int, highest: float = 1.0) -> np.ndarray:
    """Return t for the documents at these places of the epoch's order, in [MIN_RATE, highest].

    Successive places are a golden-ratio step apart, so that every window holds small, middle and large rates: the
    variance of the bound comes mostly from t.
    """
    start = uniforms((Draw.RATE, seed, epoch), np.zeros(1))
    return MIN_RATE + (highest - MIN_RATE) * ((start + places * GOLDEN_RATIO) % 1.0)


def corrupt(document: Document, noise: Noise) -> Noised:
    """Hide a part of the response; the prompt and position 0 (which no row of a shifted head scores) stay visible.

    `copy` is the notebook's objective: it hides nothing and supervises every token, so the target stands in the input.
    """
    length = len(document.tokens)
    response = np.arange(length) >= max(document.prompt_tokens, 1)
    if noise.objective == "copy":
        supervised = np.arange(length) >= 1
        nothing = np.zeros(length, np.float32)
        weights = supervised.astype(np.float32)
        return Noised(document, noise, document.tokens, supervised, weights, nothing, int(supervised.sum()), 0)
    chance = uniforms((Draw.MASK, noise.seed, noise.epoch, document.example_id, noise.draw), np.arange(length))
    supervised = ((chance < noise.rate) != noise.complement) & response
    elbo = supervised / (1 - noise.rate if noise.complement else noise.rate)
    reported = response & (np.arange(length) < length - document.tail_tokens)
    return Noised(
        document,
        noise,
        input_ids=np.where(supervised, noise.mask_id, document.tokens),
        supervised=supervised,
        weights=_weights(noise.objective, supervised, elbo).astype(np.float32),
        elbo_weights=(elbo * reported).astype(np.float32),
        loss_tokens=int(response.sum()),
        nll_tokens=int(reported.sum()),
    )


def _weights(objective: str, supervised: np.ndarray, elbo: np.ndarray) -> np.ndarray:
    """Return w, [L], 0 where not supervised."""
    if objective == "elbo":
        return elbo
    if objective == "uniform":
        return supervised.astype(float)
    assert objective == "cart", f"unknown objective {objective!r}; expected elbo, cart, uniform or copy"
    return cart_weights(~supervised) * supervised


def cart_weights(visible: np.ndarray, p: float = CART_P) -> np.ndarray:
    """Return Dream's context-adaptive weight of each position, [L]: how much visible context stands near it.

    A visible token d positions away adds p (1 - p)^(d - 1) / 2 (Ye et al. 2025, Dream 7B). p = 0.3 and the
    normalisation are dllm's: the sum is divided by the number of maskable (response) tokens, whereas Dream-Coder's
    trainer takes p = 0.1 and divides by the masked ones. Padding is no context here.
    """
    tail = p * (1 - p) ** np.arange(CART_REACH) / 2
    kernel = np.concatenate([tail[::-1], [0.0], tail])
    return np.convolve(visible.astype(float), kernel)[CART_REACH : CART_REACH + len(visible)]
