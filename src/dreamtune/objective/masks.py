"""Which positions of a response one corruption hides: the first half of step 4 of `objective.diffusion`.

The bound of masked diffusion has two forms with one value (Nie et al. 2025, arXiv 2502.09992, eq. 6 and appendix A;
worked out in `evaluate.elbo`): each of L positions is hidden with probability t, t uniform, and costs CE/t; or exactly
k of L are, k uniform on 1..L, and each costs CE·L/k. In the second form the weight is sure of the number that it
stands for, so its gradient is less noisy. L counts what can be hidden, tail tokens included: only then is the value
that of the first form.

Pairs take two masks of one document, each at half weight. The halves of a complementary pair hide all of it together.
With exact counts the complement of k = L would be empty, and leaving it out would leave out half of what k = L
contributes: so that draw, one in L, stands alone at full weight. The halves of a mirrored pair (MIRROR, Jia et al.
2025, arXiv 2511.18159) have the same rate: one hides the positions with the smallest random numbers, one those with the
largest.

A block (Sun et al. 2025, arXiv 2508.19529) is masked as if it were the response: all before it is visible, and all
behind it is hidden and not supervised, as generation sees it block by block. This bounds **another likelihood**: the
one of a model that writes block by block from the left (Arriola et al. 2025, arXiv 2503.09573, eq. 8).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Masking:
    """How positions are chosen, as `train.mask_counts`, `pairs`, `mask_block` and `tail_masks` say."""

    exact: bool = False  # exactly k of L positions, else each with probability t
    mirror: bool = False  # the second mask of a pair has the rate of the first, else it is the complement
    block: int | None = None  # length of the blocks of which one is masked; None masks over the whole response
    tail_together: bool = False  # the end token and its tail are hidden together, and are one of the L positions


@dataclass(frozen=True)
class Mask:
    """The positions that one corruption hides and supervises, [L] each, and how rare that is."""

    hidden: np.ndarray  # bool, the model sees the mask token
    supervised: np.ndarray  # bool, of the hidden positions those whose token is predicted
    inverse: float  # 1 / the probability that a position is supervised, given t or k; 0 if none can be
    spread: float  # 1 / the probability of this block; 1 without blocks


def draw_mask(
    chance: np.ndarray,
    response: np.ndarray,
    tail_tokens: int,
    rate: float,
    masking: Masking,
    complement: bool = False,
    place: float = 0.0,
) -> Mask:
    """Return the mask that uniform random numbers make.

    Of five response tokens, t = 0.5 makes k = 1 + floor(5 t) = 3: those with the smallest numbers.

    >>> chance, response = np.array([0.2, 0.9, 0.1, 0.6, 0.3, 0.8]), np.arange(6) > 0
    >>> draw_mask(chance, response, 0, 0.5, Masking(exact=True)).supervised.astype(int).tolist()
    [0, 0, 1, 1, 1, 0]
    >>> draw_mask(chance, response, 0, 0.5, Masking(exact=True, mirror=True), complement=True).inverse == 5 / 3
    True

    Blocks of two, of which `place` picks the second: all behind it is hidden, and only the block is supervised.

    >>> mask = draw_mask(chance, response, 0, 0.5, Masking(exact=True, block=2), place=0.5)
    >>> mask.hidden.astype(int).tolist(), mask.supervised.astype(int).tolist(), mask.spread
    ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0], 2.5)

    Args:
        chance: [L] in [0, 1).
        response: [L] bool, the positions that may be hidden, the tail included.
        tail_tokens: further end tokens at the end.
        rate: t in (0, 1]; with exact counts k = 1 + floor(t L), at most L.
        masking: how positions are chosen.
        complement: the second mask of a pair.
        place: in [0, 1), which token's block is masked.
    """
    end = len(chance) - tail_tokens - 1  # the first end token
    together = masking.tail_together and tail_tokens > 0
    single = response & (np.arange(len(chance)) <= end) if together else response
    block, spread, behind = single, 1.0, np.zeros(len(chance), bool)
    if masking.block and single.any():
        places = np.flatnonzero(single)
        first = int(len(places) * place) // masking.block * masking.block
        block = np.isin(np.arange(len(chance)), places[first : first + masking.block])
        spread = len(places) / block.sum()
        behind = single & (np.arange(len(chance)) > np.flatnonzero(block)[-1])
    supervised, share = _choose(chance, block, rate, masking, complement)
    hidden = supervised | behind
    if together:
        supervised[end + 1 :], hidden[end + 1 :] = supervised[end], hidden[end]
    return Mask(hidden, supervised, spread / share if share else 0.0, float(spread))


def _choose(
    chance: np.ndarray, positions: np.ndarray, rate: float, masking: Masking, complement: bool
) -> tuple[np.ndarray, float]:
    """Return the chosen ones of `positions` [L] bool, and the probability with which each is chosen."""
    mirrored = complement and masking.mirror
    if not masking.exact:
        if mirrored:
            return (1 - chance < rate) & positions, rate
        return ((chance < rate) != complement) & positions, 1 - rate if complement else rate
    places = np.flatnonzero(positions)
    count = min(len(places), 1 + int(len(places) * rate))
    order = places[np.argsort(chance[places], kind="stable")]
    chosen = np.zeros(len(chance), bool)
    chosen[order[len(places) - count :] if mirrored else order[count:] if complement else order[:count]] = True
    return chosen, int(chosen.sum()) / max(len(places), 1)
