"""The objective on hand-made documents, with answers known by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dreamtune import diffusion
from dreamtune.batching import split_window
from dreamtune.diffusion import (
    MIN_RATE,
    Document,
    Noise,
    Noised,
    cart_weights,
    collate,
    corrupt,
    counter_hash,
    loss_sums,
    mask_rates,
    uniforms,
)
from dreamtune.model import load
from tiny import END, MASK, make_model


def document(example_id: int = 7, prompt: int = 3, response: int = 10, tail: int = 2) -> Document:
    tokens = np.arange(prompt + response + tail) % 50
    return Document(example_id, tokens.astype(np.int64), prompt, tail)


def noise(objective: str = "elbo", rate: float = 0.5, **changes: object) -> Noise:
    return replace(Noise(objective, rate, seed=1, epoch=0, mask_id=MASK), **changes)  # type: ignore[arg-type]


# --- the hash -----------------------------------------------------------------------------------------------------


def test_scramble_is_splitmix64() -> None:
    """The published first outputs of SplitMix64 for the seed 1234567."""
    outputs = diffusion._scramble(np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
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


# --- the loss -----------------------------------------------------------------------------------------------------


class TwoTokens(nn.Module):
    """A model of two tokens that gives token 1 the logit `x` and token 0 the logit 0, everywhere."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(x))


@pytest.fixture
def two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(model: TwoTokens, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return model.x * torch.ones(*input_ids.shape, 1)

    def head(model: TwoTokens, rows: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(rows), rows], dim=-1)

    monkeypatch.setattr(diffusion, "hidden_states", hidden)
    monkeypatch.setattr(diffusion, "apply_head", head)


def by_hand(tokens: list[int], supervised: list[int], weight: float, elbo: float, tail: int = 0) -> Noised:
    where = np.isin(np.arange(len(tokens)), supervised)
    return Noised(
        Document(0, np.array(tokens, np.int64), 1, tail),
        noise(),
        np.array(tokens, np.int64),
        where,
        (where * weight).astype(np.float32),
        (where * elbo * (np.arange(len(tokens)) < len(tokens) - tail)).astype(np.float32),
        len(tokens) - 1,
        len(tokens) - 1 - tail,
    )


def test_loss_by_hand(two_tokens: None) -> None:
    """x = ln 3, so p(1) = 3/4 and p(0) = 1/4: CE is ln(4/3) for a 1 and ln 4 for a 0."""
    rows = [by_hand([0, 1, 0, 1], [1, 2], weight=2.0, elbo=2.0), by_hand([0, 1, 1], [2], weight=4.0, elbo=4.0, tail=1)]
    loss, nll = loss_sums(TwoTokens(math.log(3)), collate(rows, pad_id=0))
    assert loss.item() == pytest.approx(2 * (math.log(4 / 3) + math.log(4)) + 4 * math.log(4 / 3))
    assert nll.item() == pytest.approx(2 * (math.log(4 / 3) + math.log(4)))  # the tail's token is not reported
    assert not nll.requires_grad


def test_gradient_by_hand(two_tokens: None) -> None:
    """d CE / dx = p(1) - [target is 1]: 2 (3/4 - 1) + 2 (3/4 - 0) = 1."""
    model = TwoTokens(math.log(3))
    loss_sums(model, collate([by_hand([0, 1, 0, 1], [1, 2], 2.0, 2.0)], pad_id=0))[0].backward()
    assert model.x.grad is not None and model.x.grad.item() == pytest.approx(1.0)


def test_the_bound_is_unbiased(two_tokens: None) -> None:
    """The mean of the bound over draws is the exact NLL of a model that ignores its input: ln(4/3) per token 1."""
    total = tokens = 0.0
    for place, rate in enumerate(mask_rates(np.arange(4000), 0, 0)):
        noised = corrupt(Document(place, np.ones(21, np.int64), 1, 0), noise(rate=float(rate), mask_id=0))
        if noised.supervised.any():
            total += loss_sums(TwoTokens(math.log(3)), collate([noised], 0))[1].item()
        tokens += noised.nll_tokens
    assert total / tokens == pytest.approx(math.log(4 / 3), rel=0.03)


def test_collate_pads_on_the_right_and_hides_padding() -> None:
    short, long = corrupt(document(response=4), noise()), corrupt(document(response=10), noise())
    batch = collate([short, long], pad_id=END)
    assert batch.input_ids.shape == (2, 15) and (batch.input_ids[0, 9:] == END).all()
    assert batch.attention_mask is not None and batch.attention_mask.sum(1).tolist() == [9, 15]
    assert batch.targets.tolist() == [*short.document.tokens[short.supervised], *long.document.tokens[long.supervised]]
    assert (batch.positions % 15).tolist() == [*np.flatnonzero(short.supervised), *np.flatnonzero(long.supervised)]
    assert collate([long, long], pad_id=END).attention_mask is None


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_any_split_of_a_window_gives_the_same_gradient(micro_batch: int, tmp_path: Path) -> None:
    """Different lengths, so that every split pads differently; float32."""
    model = load(make_model(tmp_path / "base"))
    window = [corrupt(document(e, 3, 6 + 3 * e, e % 3), noise(rate=0.2 + 0.15 * e)) for e in range(5)]
    tokens = sum(row.loss_tokens for row in window)

    def gradient(rows: list[list[Noised]]) -> tuple[float, Tensor]:
        model.zero_grad()
        total = 0.0
        for batch in rows:
            loss = loss_sums(model, collate(batch, END))[0] / tokens
            loss.backward()
            total += loss.item()
        return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole, split = gradient([window]), gradient(split_window(window, micro_batch))
    assert split[0] == pytest.approx(whole[0], abs=1e-6)
    assert (split[1] - whole[1]).abs().max() < 1e-6 * max(1.0, whole[1].abs().max().item())


def test_chunks_of_the_head_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(make_model(tmp_path / "base"))
    batch = collate([corrupt(document(e), noise(rate=0.9)) for e in range(3)], END)
    whole = loss_sums(model, batch)[0]
    whole.backward()
    gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()
    monkeypatch.setattr(diffusion, "HEAD_ROWS", 4)
    chunked = loss_sums(model, batch)[0]
    chunked.backward()
    assert chunked.item() == pytest.approx(whole.item(), rel=1e-6)
    assert (model.lm_head.weight.grad - gradient).abs().max() < 1e-6 * gradient.abs().max()
