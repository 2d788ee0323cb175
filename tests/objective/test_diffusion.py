"""The objective on hand-made documents, with answers known by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from documents import document, noise
from dreamtune.noise import counter_hash, splitmix64, uniforms
from dreamtune.objective.diffusion import MIN_RATE, cart_weights, corrupt, mask_rates
from tiny import MASK

# --- the hash -----------------------------------------------------------------------------------------------------


def test_scramble_is_splitmix64() -> None:
    """The published first outputs of SplitMix64 for the seed 1234567."""
    outputs = splitmix64(np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    assert outputs.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_is_the_same_everywhere() -> None:
    """Pinned: another machine or version of numpy that drew other masks would break resuming across nodes."""
    assert counter_hash((3, 0, -1, 12), np.arange(3)).tolist() == [
        9146282978847905,
        13973238576060069779,
        6730949501412223261,
    ]


def test_hash_depends_on_every_part_of_its_key() -> None:
    keys = [(1, 2, 3), (1, 2, 4), (2, 1, 3), (1, 2), (1, 2, 3, 0), (-1, 2, 3)]
    values = {int(counter_hash(key, np.zeros(1))[0]) for key in keys}
    assert len(values) == len(keys)


def test_uniforms_are_uniform() -> None:
    drawn = np.concatenate([uniforms((3, 0, 0, example, 0), np.arange(100)) for example in range(1000)])
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-squared of 19 degrees of freedom, 0.1 %


# --- mask rates ---------------------------------------------------------------------------------------------------


def test_rates_are_stratified_in_every_window() -> None:
    """Eight successive documents: at least one in each fifth of (0, 1], whichever window it is."""
    rates = mask_rates(np.arange(1000), seed=0, epoch=0)
    for start in range(0, 1000, 8):
        assert set((rates[start : start + 8] * 5).astype(int)) == {0, 1, 2, 3, 4}, start


def test_rates_cover_the_range_evenly() -> None:
    rates = np.sort(mask_rates(np.arange(1000), seed=3, epoch=2))
    assert rates[0] >= MIN_RATE and rates[-1] <= 1
    ideal = MIN_RATE + (1 - MIN_RATE) * (np.arange(1000) + 0.5) / 1000
    assert abs(rates - ideal).max() < 0.004  # chance alone would miss by about 0.03


def test_rates_follow_the_formula_and_the_epoch() -> None:
    first, second = mask_rates(np.arange(2), seed=5, epoch=1)
    assert (second - first) / (1 - MIN_RATE) % 1 == pytest.approx(0.6180339887)
    assert first != mask_rates(np.arange(1), seed=5, epoch=2)[0]
    assert first != mask_rates(np.arange(1), seed=6, epoch=1)[0]


# --- masks --------------------------------------------------------------------------------------------------------


@given(rate=st.floats(MIN_RATE, 1.0), example=st.integers(0, 10**9), prompt=st.integers(0, 5), tail=st.integers(0, 3))
def test_prompt_and_position_0_are_never_masked(rate: float, example: int, prompt: int, tail: int) -> None:
    noised = corrupt(document(example, prompt, 12, tail), noise(rate=rate))
    first = max(prompt, 1)
    assert not noised.supervised[:first].any()
    assert (noised.input_ids[:first] == noised.document.tokens[:first]).all()
    assert (noised.input_ids[noised.supervised] == MASK).all()
    assert (noised.input_ids == noised.document.tokens)[~noised.supervised].all()
    assert noised.loss_tokens == prompt + 12 + tail - first and noised.nll_tokens == prompt + 12 - first


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9, 1.0])
def test_masked_share_is_the_rate(rate: float) -> None:
    shares = [corrupt(document(e, 0, 101, 0), noise(rate=rate)).supervised[1:].mean() for e in range(400)]
    assert np.mean(shares) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 40_000) + 1e-12)


def test_mask_depends_on_key_alone() -> None:
    mask = corrupt(document(), noise()).supervised
    assert (corrupt(document(), noise(objective="cart")).supervised == mask).all()
    longer = corrupt(document(response=20), noise()).supervised
    assert (longer[: len(mask)] == mask).all()  # nothing but its own position decides on a token
    for other in (noise(seed=2), noise(epoch=1), noise(draw=1)):
        assert (
            corrupt(document(response=40), other).supervised != corrupt(document(response=40), noise()).supervised
        ).any()


def test_smaller_rates_mask_a_subset() -> None:
    small, large = (corrupt(document(response=50), noise(rate=rate)).supervised for rate in (0.3, 0.7))
    assert small.any() and large[small].all() and large.sum() > small.sum()


@given(rate=st.floats(MIN_RATE, 1 - MIN_RATE), example=st.integers(0, 10**6))
def test_complements_are_complements(rate: float, example: int) -> None:
    one, two = (corrupt(document(example), noise(rate=rate, complement=half)) for half in (False, True))
    response = np.arange(15) >= 3
    assert (one.supervised ^ two.supervised == response).all()
    assert one.weights[one.supervised] == pytest.approx(1 / rate)
    assert two.weights[two.supervised] == pytest.approx(1 / (1 - rate))


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "weight"), [("elbo", 4.0), ("uniform", 1.0)])
def test_weights(objective: str, weight: float) -> None:
    noised = corrupt(document(response=40), noise(objective, rate=0.25))
    assert set(noised.weights[noised.supervised]) == {weight}
    assert not noised.weights[~noised.supervised].any()
    reported = noised.supervised.copy()
    reported[-2:] = False  # the tail
    assert (noised.elbo_weights == np.where(reported, 4.0, 0.0)).all()  # 1/t, whatever is trained


@pytest.mark.parametrize("objective", ["elbo", "uniform", "cart"])
@pytest.mark.parametrize("tail", [0, 1, 2, 40])
def test_a_tail_counts_as_one_token_whatever_its_length(objective: str, tail: int) -> None:
    """Its weights are those of separate tokens divided by their number, and the denominator counts one."""
    row, rate = document(response=10, tail=tail), 0.5
    one, each = (corrupt(row, noise(objective, rate, tail_as_one=as_one)) for as_one in (True, False))
    assert one.loss_tokens == 10 + min(tail, 1) and each.loss_tokens == 10 + tail
    behind = np.arange(13 + tail) >= 13
    np.testing.assert_allclose(one.weights, np.where(behind, each.weights / max(tail, 1), each.weights), rtol=1e-6)


def test_the_loss_of_a_tail_is_the_mean_over_its_tokens() -> None:
    """Over many masks, of a tail of 5 whose tokens cost 1 to 5 nats: 3 nats, as the bound of one token of that cost."""
    row, cost = document(response=4, tail=5), np.array([0.0] * 7 + [1, 2, 3, 4, 5])
    draws = [corrupt(row, noise(rate=0.4, draw=draw, tail_as_one=True)).weights @ cost for draw in range(4000)]
    assert np.mean(draws) == pytest.approx(3.0, abs=4 * np.std(draws) / math.sqrt(4000))


def test_cart_weights_by_hand() -> None:
    """Position 1 hidden between two visible ones: 2 * p/2. Position 4, two beyond the last visible: p (1-p) / 2."""
    p = 0.3
    weights = cart_weights(np.array([True, False, True, False, False]))
    assert weights[1] == pytest.approx(p)
    assert weights[4] == pytest.approx(p * (1 - p) / 2 + p * (1 - p) ** 3 / 2)
    assert cart_weights(np.zeros(5, bool)).tolist() == [0.0] * 5


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_cart_weights_against_the_double_sum(visible: list[bool]) -> None:
    brute = [
        sum(0.15 * 0.7 ** (abs(i - j) - 1) for j, seen in enumerate(visible) if seen and i != j)
        for i in range(len(visible))
    ]
    assert cart_weights(np.array(visible)) == pytest.approx(brute, abs=1e-9)


def test_cart_weights_only_what_is_hidden() -> None:
    noised = corrupt(document(), noise("cart"))
    assert (noised.weights > 0).tolist() == noised.supervised.tolist()


def test_copy_hides_nothing_and_supervises_all_but_position_0() -> None:
    noised = corrupt(document(), noise("copy"))
    assert (noised.input_ids == noised.document.tokens).all()
    assert noised.supervised.tolist() == [False] + [True] * 14
    assert noised.weights.tolist() == [0.0] + [1.0] * 14
    assert noised.loss_tokens == 14 and noised.nll_tokens == 0  # nothing was hidden: there is no bound to report
