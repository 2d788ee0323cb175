"""One position's token and confidence, and the counter-based noise behind it, against distributions known by hand."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dreamtune.generate.choosing import choose, surest, untempered_probability
from dreamtune.noise import open_uniforms
from dreamtune.settings.generate import GenerateConfig
from tolerance import float32_rounding

MASK = 9


def test_orders_rank_by_their_own_measure() -> None:
    logits = torch.log(
        torch.tensor(
            [
                [0.45, 0.45, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01, 0.0, 0.0],  # highest token, no margin
                [0.40, 0.09, 0.09, 0.09, 0.09, 0.08, 0.08, 0.08, 0.0, 0.0],  # margin, but much entropy
                [0.44, 0.43, 0.13, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # least entropy
            ]
        )
        + 1e-30
    )
    for order, first in (("maskgit_plus", 0), ("topk_margin", 1), ("entropy", 2)):
        _, confidence = choose(logits.clone(), torch.zeros(3), GenerateConfig(order=order), MASK)
        assert confidence.argmax().item() == first, order


def sampled(logits: list[float], **changes: Any) -> np.ndarray:
    """Return the shares of the tokens over 20,000 draws."""
    draws = 20_000
    uniform = torch.from_numpy(open_uniforms(0, np.arange(draws)))
    config = GenerateConfig(**({"temperature": 1.0, "order": "maskgit_plus"} | changes))
    tokens, _ = choose(torch.tensor(logits).expand(draws, -1).clone(), uniform, config, mask_id=len(logits) - 1)
    return np.bincount(tokens.numpy(), minlength=len(logits)) / draws


def test_sampling_follows_the_tempered_and_filtered_distribution() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    logits = [*np.log(p[:4]).tolist(), 99.0]  # the mask token is by far the likeliest
    np.testing.assert_allclose(sampled(logits), p, atol=0.02)
    np.testing.assert_allclose(sampled(logits, temperature=0.5), p**2 / (p**2).sum(), atol=0.02)
    np.testing.assert_allclose(sampled(logits, top_k=2), [0.625, 0.375, 0, 0, 0], atol=0.02)
    # 0.6 is reached by the second token, which therefore stays
    np.testing.assert_allclose(sampled(logits, top_p=0.6), [0.625, 0.375, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(sampled(logits, top_p=0.1), [1, 0, 0, 0, 0])
    np.testing.assert_allclose(sampled(logits, top_p=0.9, top_k=1), [1, 0, 0, 0, 0])


def test_untempered_ranking_looks_at_what_the_model_said() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0], [4.0, 1.0, 0.0, 0.0]])
    noise = torch.full((2,), 0.5, dtype=torch.float64)
    for ranking, tempered in (("official", 4.0), ("untempered", 1.0)):
        config = GenerateConfig(order="maskgit_plus", temperature=0.25, ranking=ranking)
        tokens, confidence = choose(logits.clone(), noise, config, mask_id=3)
        assert tokens.tolist() == [0, 0]
        torch.testing.assert_close(confidence, (tempered * logits[:, :3].double()).softmax(-1)[:, 0])
        filtered = config.model_copy(update={"top_k": 1})
        _, confidence = choose(logits.clone(), noise, filtered, mask_id=3)
        assert (confidence == 1).all() == (ranking == "official")


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(-5, 5))
def test_uniforms_are_inside_the_open_interval_and_stable(a: int, b: int, c: int) -> None:
    numbers = open_uniforms(a, b, c, np.arange(50))
    assert (numbers > 0).all() and (numbers.astype(np.float32) < 1).all()
    assert np.array_equal(numbers[7:9], open_uniforms(a, b, c, np.array([7, 8])))
    assert not np.array_equal(numbers, open_uniforms(a, b, c + 1, np.arange(50)))


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    grid = open_uniforms(3, np.arange(300)[:, None], np.arange(300)[None])
    assert abs(grid.mean() - 0.5) < 0.005 and abs(grid.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.02


def test_the_fast_choice_is_the_precise_one_and_keeps_apart_what_is_nearly_sure() -> None:
    """Rows whose likeliest token leaves down to e^-25 to all others, which float32 beside 1 cannot hold."""
    torch.manual_seed(0)
    logits = torch.randn(80, 1000)
    logits[:, 7] += torch.linspace(5, 30, 80)
    logits[::3, MASK] = 99.0
    tokens, confidence, probability = surest(logits, MASK)
    precise_tokens, _ = choose(logits, torch.zeros(80), GenerateConfig(), MASK)
    exact = logits.double()
    exact[:, MASK] = -torch.inf
    chances = exact.softmax(dim=-1)
    entropy = torch.special.entr(chances).sum(dim=-1)  # without the 1e-10 of the official sampler
    assert torch.equal(tokens, precise_tokens)
    torch.testing.assert_close(-confidence.double(), entropy, rtol=1e-4, atol=0)
    assert torch.equal(confidence.argsort(), entropy.argsort(descending=True))
    rounding = float32_rounding(terms=1000)  # every term is positive: relative to each sum
    expected = untempered_probability(logits, tokens, MASK)
    torch.testing.assert_close(probability.double(), expected, rtol=rounding, atol=0)
