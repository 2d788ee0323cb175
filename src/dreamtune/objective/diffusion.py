"""The objective: which tokens are hidden, and how their prediction is scored. This module has step 4.

Masked diffusion (Sahoo et al. 2024, arXiv 2406.07524; Shi et al. 2024, arXiv 2406.04329) draws a mask rate t for a
document, replaces each *response* token by the mask token with probability t, and trains the model to predict the
replaced tokens. By default exactly k tokens are replaced, with one expectation (`objective.masks`). One optimiser step
minimises

    sum of w * CE over the masked tokens / number of response tokens,

both sums over the whole window of `global_batch` documents. With w = 1/t this is an upper bound (the negative ELBO) on
the negative log-likelihood, in nats per response token. Whatever w is trained, this bound is reported, wherever the
masks estimate it. `objective.masks` says which do, and with which weight in place of 1/t.

A tail shows how much room can lie behind an answer; it holds no more information than one token does. So it counts as
one (`tail_loss: one`): its n tokens have the weight w/n each, and it adds 1 to the number of response tokens. Over the
masks, that is the mean of its tokens' expected w * CE. Step by step:

    1. order     shuffle the epoch's rows, and cut the order into windows    train.windows.epoch_order
    2. tail      append 0 to `max_tail` further end tokens to a response     train.documents.make_document
                 or show only its beginning (cut_length, make_beginning)
    3. rate      draw t for each document                                    objective.rates.drawn_rates
    4. corrupt   hide k = 1 + floor(t L) response tokens, or each with t;    objective.masks.draw_mask
                 weigh them by w                                             objective.diffusion.corrupt
    5. split     share the window's documents out among micro-batches        objective.packing.split_window
                 and give every process its turns at them                    train.windows.micro_batches
    6. collate   pack a micro-batch's documents into one row [T]             objective.packing.collate
    7. body      run all T tokens through the decoder layers                 objective.packing.hidden_rows
    8. head      score only the N masked tokens: w * CE                      objective.loss.head_loss
    9. divide    by the response tokens of the *window*; backward pass       train.micro_batches.forward_backward
    10. sum      add up gradients over micro-batches                         train.micro_batches.accumulate
                 and over processes; then the optimiser steps                train.steps.fit

A causal model (`model.attention: causal`) takes the same steps with other third and fourth ones: nothing is hidden, and
each response token up to the end token is predicted from those before it (`next_tokens`). The loss is then the negative
log-likelihood itself, and there is no tail: behind the end token nothing is left to learn.

No random number comes from a generator that advances. Each is a hash of what it is drawn for (seed, epoch, example,
position), so that micro-batches, the number of processes and resuming cannot change it.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from dreamtune.noise import uniforms
from dreamtune.objective.masks import Mask, Masking, draw_mask

GOLDEN_RATIO = 0.6180339887  # steps of this size, wrapped at 1, fill [0, 1) evenly after any number of steps
MIN_RATE = 1e-3  # bounds the weight 1/t
CART_P = 0.3
CART_REACH = 64  # positions; a visible token further away would add less than (1 - 0.3)^64 = 1e-10


class Draw(IntEnum):
    """The uses of random numbers. The use enters the hash, so that two uses with one seed stay independent."""

    ORDER = 1
    RATE = 2
    MASK = 3
    TAIL = 4
    DROPOUT = 5
    CUT = 6
    STRATUM = 7
    BLOCK = 8


@dataclass(frozen=True)
class Document:
    """One example as it is trained: prompt, response, the response's end token and a tail of further tokens."""

    example_id: int
    tokens: np.ndarray  # [L] int64
    prompt_tokens: int  # leading tokens that are given and never masked, the beginning token included
    tail_tokens: int  # tokens after the end token; in the loss, never in the reported likelihood
    cut: bool = False  # only the beginning of the response is there, so neither end token nor tail
    source: int | None = None  # number of its source, where there are several


@dataclass(frozen=True)
class Noise:
    """The settings of one corruption. With equal `Noise`, `corrupt` hides the same positions of a document again."""

    objective: str  # elbo, cart, uniform or copy; or causal
    rate: float  # t, the probability that a response token is hidden; with exact counts k = 1 + floor(t L)
    seed: int
    epoch: int
    mask_id: int
    draw: int = 0  # counts several masks of one document in one epoch
    complement: bool = False  # the second mask of a pair: what the first shows, so with probability 1 - t
    tail_as_one: bool = False  # a tail counts in the loss as one token, else each of its tokens does
    masking: Masking = Masking()  # noqa: RUF009, immutable
    scale: float = 1.0  # 1/p(t) where rates are drawn with a density p (`objective.density`)
    bounds: bool = True  # whether the weights 1/t estimate the reported bound; not for a part of the rates


@dataclass(frozen=True)
class Noised:
    """A corrupted document. All arrays are [L]; both weights are 0 at positions that are not supervised."""

    document: Document
    noise: Noise
    input_ids: np.ndarray  # int64, what the model sees: the mask token at hidden positions
    supervised: np.ndarray  # bool, positions whose token is predicted
    weights: np.ndarray  # float32, w of the trained loss
    elbo_weights: np.ndarray  # float32, w of the reported bound: 1/t or L/k up to the first end token, 0 in the tail
    loss_tokens: int  # tokens that this document adds to the denominator of the loss
    nll_tokens: int  # the same for the reported bound; 0 where there is none: `copy`, blocks, a part of the rates


def mask_rates(places: np.ndarray, seed: int, epoch: int, highest: float = 1.0) -> np.ndarray:
    """Return t of the documents at these places of the epoch's order, in [MIN_RATE, highest].

    Successive places are a golden-ratio step apart, so that every window holds small, middle and large rates. This
    steadies the *loss* from window to window, and the validation's bound. For the gradient it can do little: most of
    its variance lies between masks of one rate (on fixed windows 4 to 37 % lay between rates, docs/recipes.md), and of
    the rest only what all documents share is taken away.

    Args:
        places: [n], counted from 0.

    Returns:
        [n] float64.

    >>> mask_rates(np.arange(6), seed=0, epoch=0).round(2).tolist()
    [0.57, 0.18, 0.8, 0.42, 0.04, 0.66]
    """
    start = uniforms((Draw.RATE, seed, epoch), np.zeros(1))
    return MIN_RATE + (highest - MIN_RATE) * ((start + places * GOLDEN_RATIO) % 1.0)


def corrupt(document: Document, noise: Noise) -> Noised:
    """Hide response tokens at random; the prompt and position 0 (which a shifted head cannot score) stay visible.

    Its mean over masks and rates is the bound: with exact counts to the last bit of the weights, with random counts but
    for the rates below MIN_RATE, which are never drawn. `noise.masking.block` and a part of the rates estimate other
    losses (tests/objective/test_unbiased.py enumerates each).

    `copy` is the objective of the notebook that this project replaces, kept to show its failure: it hides nothing and
    supervises every token, so that each target stands in its own input.

    Four of these six response tokens are hidden at t = 0.5; the last is a tail, which the reported bound leaves out:

    >>> document = Document(example_id=7, tokens=np.arange(10, 20), prompt_tokens=4, tail_tokens=1)
    >>> noised = corrupt(document, Noise("elbo", rate=0.5, seed=0, epoch=0, mask_id=99))
    >>> noised.input_ids.tolist(), noised.weights.tolist()[4:], noised.loss_tokens, noised.nll_tokens
    ([10, 11, 12, 13, 14, 99, 99, 99, 99, 19], [0.0, 2.0, 2.0, 2.0, 2.0, 0.0], 6, 5)

    With a tail of two that counts as one token, each of the two counts half:

    >>> document = Document(example_id=7, tokens=np.arange(10, 20), prompt_tokens=4, tail_tokens=2)
    >>> noised = corrupt(document, Noise("elbo", rate=0.5, seed=0, epoch=0, mask_id=99, tail_as_one=True))
    >>> noised.weights.tolist()[4:], noised.loss_tokens, noised.nll_tokens
    ([0.0, 2.0, 2.0, 2.0, 1.0, 0.0], 5, 4)
    """
    if noise.objective == "causal":
        return next_tokens(document, noise)
    length = len(document.tokens)
    response = np.arange(length) >= max(document.prompt_tokens, 1)
    if noise.objective == "copy":
        supervised = np.arange(length) >= 1
        nothing = np.zeros(length, np.float32)
        weights = supervised.astype(np.float32)
        return Noised(document, noise, document.tokens, supervised, weights, nothing, int(supervised.sum()), 0)
    mask = _mask(document, noise, response)
    elbo = mask.supervised * (noise.scale * mask.inverse)
    reported = response & (np.arange(length) < length - document.tail_tokens) & _has_bound(noise)
    weights, counted = _weights(noise.objective, mask, elbo, noise.scale), int(response.sum())
    if noise.tail_as_one and document.tail_tokens > 1:
        tail = np.arange(length) >= length - document.tail_tokens
        weights = np.where(tail, weights / document.tail_tokens, weights)
        counted += 1 - document.tail_tokens
    return Noised(
        document,
        noise,
        input_ids=np.where(mask.hidden, noise.mask_id, document.tokens),
        supervised=mask.supervised,
        weights=weights.astype(np.float32),
        elbo_weights=(elbo * reported).astype(np.float32),
        loss_tokens=counted,
        nll_tokens=int(reported.sum()),
    )


def next_tokens(document: Document, noise: Noise) -> Noised:
    """Return a document whose response tokens, up to the end token, a causal model predicts from those before them.

    Nothing is hidden, and every weight is 1: the sum of the cross entropies is −log p(response | prompt), exactly.

    >>> document = Document(example_id=7, tokens=np.array([5, 6, 7, 8, 2]), prompt_tokens=2, tail_tokens=0)
    >>> noised = corrupt(document, Noise("causal", rate=1.0, seed=0, epoch=0, mask_id=99))
    >>> noised.input_ids.tolist(), noised.weights.tolist(), noised.loss_tokens
    ([5, 6, 7, 8, 2], [0.0, 0.0, 1.0, 1.0, 1.0], 3)
    """
    places = np.arange(len(document.tokens))
    supervised = (places >= max(document.prompt_tokens, 1)) & (places < len(places) - document.tail_tokens)
    weights, count = supervised.astype(np.float32), int(supervised.sum())
    return Noised(document, noise, document.tokens, supervised, weights, weights, count, count)


def corrupt_pair(document: Document, noise: Noise) -> list[Noised]:
    """Return a document under two masks, each at half weight since both count in the window's denominators.

    Where exact counts hide all L positions, the document stands alone. It counts twice and weighs twice, which is its
    full weight: the complement would be empty, and the mirrored mask the same.
    """
    first = corrupt(document, noise)
    second = corrupt(document, replace(noise, complement=True))
    complement = replace(noise, complement=True, masking=replace(noise.masking, mirror=False))
    if not noise.masking.exact or corrupt(document, complement).supervised.any():
        return [first, second]
    alone = replace(first, weights=2 * first.weights, elbo_weights=2 * first.elbo_weights)
    return [replace(alone, loss_tokens=2 * first.loss_tokens, nll_tokens=2 * first.nll_tokens)]


def _mask(document: Document, noise: Noise, response: np.ndarray) -> Mask:
    """Return the positions that `corrupt` hides: a function of the document's length and of the noise alone."""
    key = (noise.seed, noise.epoch, document.example_id, noise.draw)
    chance = uniforms((Draw.MASK, *key), np.arange(len(response)))
    place = float(uniforms((Draw.BLOCK, *key), np.zeros(1))[0]) if noise.masking.block else 0.0
    return draw_mask(chance, response, document.tail_tokens, noise.rate, noise.masking, noise.complement, place)


def _has_bound(noise: Noise) -> bool:
    """Return whether CE with the weights 1/t adds up to the reported bound, of the response as a whole."""
    return noise.bounds and noise.masking.block is None


def _weights(objective: str, mask: Mask, elbo: np.ndarray, scale: float) -> np.ndarray:
    """Return w of an objective by its name, [L], 0 at positions that are not supervised.

    Args:
        mask: the mask.
        elbo: [L], 1/t at supervised positions, else 0; times `scale`.
        scale: of importance sampling.
    """
    if objective == "elbo":
        return elbo
    once = mask.supervised * (scale * mask.spread)
    if objective == "uniform":
        return once
    assert objective == "cart", f"unknown objective {objective!r}; expected elbo, cart, uniform or copy"
    return cart_weights(~mask.hidden) * once


def cart_weights(visible: np.ndarray, p: float = CART_P) -> np.ndarray:
    """Return Dream's context-adaptive weight (CART) of each position, [L]: how much visible context stands near it.

    A visible token d positions away adds p (1 - p)^(d - 1) / 2 (Ye et al. 2025, Dream 7B). p = 0.3 and the
    normalisation follow dllm (github.com/ZHZisZZ/dllm): the loss is divided by the number of maskable (response)
    tokens, whereas Dream-Coder's trainer takes p = 0.1 and divides by the masked tokens. Padding is not context here.

    Args:
        visible: [L] bool, tokens that are not masked.

    >>> cart_weights(np.array([True, True, False, False, False, True])).round(2).tolist()
    [0.19, 0.2, 0.33, 0.28, 0.27, 0.09]
    """
    tail = p * (1 - p) ** np.arange(CART_REACH) / 2
    kernel = np.concatenate([tail[::-1], [0.0], tail])  # [2 CART_REACH + 1]; a token is not its own context
    return np.convolve(visible.astype(float), kernel)[CART_REACH : CART_REACH + len(visible)]
