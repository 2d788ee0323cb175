"""Which masks estimate the bound: every mask and rate of a short response is enumerated, and the mean compared.

The model is a table: an arbitrary cost for each token and each set of hidden ones. `bound` is Σ over sets of
CE·(1/k) / C(L, k), which the integral over t of CE/t is, too (`evaluate.elbo`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, combinations, permutations
from typing import Any

import numpy as np
import pytest

from documents import document, noise
from dreamtune.objective import diffusion
from dreamtune.objective.diffusion import MIN_RATE, Document, Draw, Noise, Noised, corrupt, corrupt_pair
from dreamtune.objective.masks import Masking
from tiny import MASK

ROW = document(prompt=1, response=3, tail=2)  # five tokens can be hidden: two words, the end token and its tail
FIRST, LENGTH, TAIL = 1, len(ROW.tokens), 2
PLACES = tuple(range(FIRST, LENGTH))
COUNT = len(PLACES)
EXACT = Masking(exact=True)
Chances = Callable[..., None]


@cache
def cost(hidden: frozenset[int]) -> np.ndarray:
    """Return an arbitrary cost of each token given what is hidden, [L], between 0 and 5."""
    return np.random.default_rng(sum(2**place for place in hidden)).uniform(0, 5, LENGTH)


def subsets(places: Sequence[int]) -> Iterator[frozenset[int]]:
    """Yield every set of these places that is not empty."""
    sizes = range(1, len(places) + 1)
    return map(frozenset, chain.from_iterable(combinations(places, size) for size in sizes))


def bound(
    places: Sequence[int] = PLACES, factors: np.ndarray | float = 1.0, also: frozenset[int] = frozenset()
) -> float:
    """Return the bound of the tokens at `places`, each times its factor, while `also` is hidden."""
    mine = np.isin(np.arange(LENGTH), places) * factors
    sizes = {chosen: len(chosen) * math.comb(len(places), len(chosen)) for chosen in subsets(places)}
    return sum(float((cost(c | also) * mine)[sorted(c)].sum()) / size for c, size in sizes.items())


def value(noised: Sequence[Noised], weights: str = "weights") -> float:
    """Return Σ w·CE of the masks of one document, over how often it counts: what a window's loss takes of it."""
    total, tokens = 0.0, COUNT - TAIL + 1 if noised[0].noise.tail_as_one else COUNT
    for one in noised:
        hidden = frozenset(np.flatnonzero(one.input_ids == MASK).tolist())
        total += float(getattr(one, weights) @ cost(hidden))
    return total * tokens / sum(one.loss_tokens for one in noised)


@pytest.fixture
def chances(monkeypatch: pytest.MonkeyPatch) -> Chances:
    """Return a function that sets the random numbers of the tokens, and of the block."""

    def set_to(chance: np.ndarray, place: float = 0.0) -> None:
        def uniforms(key: Sequence[int], counters: np.ndarray) -> np.ndarray:
            return np.array([place]) if key[0] == Draw.BLOCK else chance

        monkeypatch.setattr(diffusion, "uniforms", uniforms)

    return set_to


def orders(places: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the random numbers of every order of these places, [L], all others being 0.5."""
    for order in permutations(range(len(places))):
        chance = np.full(LENGTH, 0.5)
        chance[list(places)] = (np.array(order) + 0.5) / len(places)
        yield chance


def mean_over_counts(chances: Chances, masked: Callable[[Noise], list[Noised]], given: Noise, weights: str) -> float:
    """Return the mean over all orders and over k = 1..L."""
    found = []
    for chance in orders(PLACES):
        chances(chance)
        for count in range(1, COUNT + 1):
            found.append(value(masked(replace(given, rate=(count - 0.5) / COUNT)), weights))
    return float(np.mean(found))


def mean_over_rates(
    chances: Chances, masked: Callable[[Noise], list[Noised]], given: Noise, low: float, high: float
) -> float:
    """Return the mean over t in [low, high] and all masks: Gauss-Legendre is exact for these polynomials."""
    nodes, shares = np.polynomial.legendre.leggauss(2 * COUNT)
    total = 0.0
    for node, share in zip(nodes, shares, strict=True):
        rate = low + (high - low) * (node + 1) / 2
        for chosen in [frozenset[int](), *subsets(PLACES)]:
            chances(np.where(np.isin(np.arange(LENGTH), sorted(chosen)), 0.0, 1 - 1e-12))
            noised = masked(replace(given, rate=rate))
            count = int(noised[0].supervised.sum())
            total += share / 2 * rate**count * (1 - rate) ** (COUNT - count) * value(noised)
    return total


def single(given: Noise) -> list[Noised]:
    return [corrupt(ROW, given)]


def pair(given: Noise) -> list[Noised]:
    return corrupt_pair(ROW, given)


def mirrored(given: Noise) -> list[Noised]:
    return [corrupt(ROW, replace(given, complement=True, masking=replace(given.masking, mirror=True)))]


@pytest.mark.parametrize("masked", [single, pair], ids=["one mask", "pair"])
@pytest.mark.parametrize("mirror", [False, True])
def test_exact_counts_and_their_pairs_estimate_the_bound(
    chances: Chances, masked: Callable[[Noise], list[Noised]], mirror: bool
) -> None:
    """Also the part of it that is reported, without the tail: the tail counts among the L tokens all the same."""
    given = noise(masking=Masking(exact=True, mirror=mirror))
    assert mean_over_counts(chances, masked, given, "weights") == pytest.approx(bound(), rel=1e-6)
    words = np.arange(LENGTH) < LENGTH - TAIL
    assert mean_over_counts(chances, masked, given, "elbo_weights") == pytest.approx(bound(factors=words), rel=1e-6)


def test_a_tail_with_the_weight_of_one_token(chances: Chances) -> None:
    one = np.where(np.arange(LENGTH) < LENGTH - TAIL, 1.0, 1 / TAIL)
    found = mean_over_counts(chances, single, noise(masking=EXACT, tail_as_one=True), "weights")
    assert found == pytest.approx(bound(factors=one), rel=1e-6)


def test_a_complement_without_the_draw_that_stands_alone_is_biased(chances: Chances) -> None:
    """Why `corrupt_pair` treats k = L apart: both halves at half weight, the second empty, lose half of that term."""

    def naive(given: Noise) -> list[Noised]:
        return [corrupt(ROW, replace(given, complement=half)) for half in (False, True)]

    found = mean_over_counts(chances, naive, noise(masking=EXACT), "weights")
    lost = float(cost(frozenset(PLACES))[FIRST:].sum()) / COUNT / 2
    assert found == pytest.approx(bound() - lost, rel=1e-6) and lost > 0.1


@pytest.mark.parametrize(("masked", "high"), [(single, 1.0), (pair, 1 - MIN_RATE), (mirrored, 1.0)])
def test_random_counts_miss_the_bound_by_the_smallest_rates_at_most(
    chances: Chances, masked: Callable[[Noise], list[Noised]], high: float
) -> None:
    """Σ CE/t has a mean below 5 nats a token at every t, so leaving out a share of the rates moves it by that share."""
    found = mean_over_rates(chances, masked, noise(), MIN_RATE, high)
    assert abs(found - bound()) < 2 * MIN_RATE * 5 * COUNT


def test_mirrored_masks_have_the_rate() -> None:
    """With random counts the second mask hides what has u > 1 - t: each token with probability t, as in the first."""
    given = noise(rate=0.3, masking=Masking(mirror=True), complement=True)
    rows = [document(example, 1, 100, 0) for example in range(200)]
    second = np.array([corrupt(row, given).supervised for row in rows])
    first = np.array([corrupt(row, replace(given, complement=False)).supervised for row in rows])
    assert second[:, 1:].mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    assert not (first & second).any()  # t < 1/2: they never share a token, so they vary against each other
    assert set(corrupt(rows[0], given).weights[second[0]]) == {np.float32(1 / 0.3)}


def test_a_tail_that_is_hidden_together_is_one_of_the_tokens(chances: Chances) -> None:
    """It estimates the bound of the words and the end, where the tail is shown only once the end has been."""
    end = LENGTH - TAIL - 1
    words, unit = PLACES[:-TAIL], frozenset(range(end, LENGTH))
    expected = 0.0
    for chosen in subsets(words):
        hidden = chosen - {end} | (unit if end in chosen else frozenset())
        share = len(chosen) * math.comb(len(words), len(chosen))
        expected += float(cost(hidden)[sorted(hidden)].sum()) / share
    found, given = [], noise(masking=Masking(exact=True, tail_together=True))
    for chance in orders(words):
        chances(chance)
        found += [value([corrupt(ROW, replace(given, rate=(k + 0.5) / len(words)))]) for k in range(len(words))]
    assert np.mean(found) == pytest.approx(expected, rel=1e-6)
    noised = corrupt(ROW, replace(given, rate=0.2))
    assert len(set(noised.supervised[end:])) == 1


def test_blocks_estimate_the_bound_of_writing_block_by_block(chances: Chances) -> None:
    """Blocks of three and two of the five tokens; and that is not the reported bound, so none is logged."""
    given, size = noise(masking=Masking(exact=True, block=3)), 3
    blocks = [PLACES[start : start + size] for start in range(0, COUNT, size)]
    behind = [frozenset(place for place in PLACES if place > block[-1]) for block in blocks]
    expected = sum(bound(block, also=later) for block, later in zip(blocks, behind, strict=True))
    total = 0.0
    for chance in orders(PLACES):
        for place in range(COUNT):
            chances(chance, (place + 0.5) / COUNT)
            length = len(blocks[place // size])
            rates = [(count - 0.5) / length for count in range(1, length + 1)]
            total += float(np.mean([value([corrupt(ROW, replace(given, rate=rate))]) for rate in rates]))
    assert total / COUNT / math.factorial(COUNT) == pytest.approx(expected, rel=1e-6)
    assert abs(expected - bound()) > 0.01
    noised = corrupt(ROW, given)
    assert noised.nll_tokens == 0 and not noised.elbo_weights.any()


def test_clipped_rates_are_biased_and_have_no_bound_to_report(chances: Chances) -> None:
    found = mean_over_rates(chances, single, noise(bounds=False), 0.5, 1.0)
    assert abs(found - bound()) > 0.1
    assert corrupt(ROW, noise(bounds=False)).nll_tokens == 0


@pytest.mark.parametrize("objective", ["elbo", "uniform", "cart"])
def test_other_weights_keep_their_meaning_under_exact_counts(chances: Chances, objective: str) -> None:
    """Random counts hide nothing once in L + 1 times, so unweighted losses are smaller by this factor alone."""
    rates = mean_over_rates(chances, single, noise(objective), 0.0, 1.0)
    counts = mean_over_counts(chances, single, noise(objective, masking=EXACT), "weights")
    assert counts == pytest.approx(rates * (1 if objective == "elbo" else (COUNT + 1) / COUNT), rel=1e-5)


@pytest.mark.parametrize("masking", [Masking(), EXACT, Masking(exact=True, block=3)])
@pytest.mark.parametrize("objective", ["elbo", "uniform", "cart"])
def test_the_importance_weight_multiplies_every_loss(masking: Masking, objective: str) -> None:
    plain, scaled = (corrupt(ROW, noise(objective, masking=masking, scale=scale)) for scale in (1.0, 0.25))
    assert (scaled.supervised == plain.supervised).all() and scaled.loss_tokens == plain.loss_tokens
    np.testing.assert_allclose(scaled.weights, plain.weights / 4, rtol=1e-6)
    np.testing.assert_allclose(scaled.elbo_weights, plain.elbo_weights / 4, rtol=1e-6)


@pytest.mark.parametrize("masking", [EXACT, Masking(exact=True, tail_together=True), Masking(exact=True, block=1)])
def test_responses_of_one_token_and_of_none(masking: Masking) -> None:
    one = corrupt_pair(Document(0, np.arange(4), prompt_tokens=3, tail_tokens=0), noise(masking=masking))
    assert [noised.supervised.tolist() for noised in one] == [[False] * 3 + [True]] and one[0].weights[3] == 2.0
    none: Any = corrupt(Document(0, np.arange(4), prompt_tokens=4, tail_tokens=0), noise(masking=masking))
    assert not none.supervised.any() and not none.weights.any() and none.loss_tokens == 0
