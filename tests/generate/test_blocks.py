"""Blocks and the threshold: how steps are spread, what is finished first, and how many passes it takes."""

import numpy as np
import pytest
import torch

from dreamtune.generate import row as denoising_row
from dreamtune.generate.choosing import choose_rows
from dreamtune.generate.row import Row, plan_blocks
from dreamtune.generate.sampler import Request, reveal_shares
from dreamtune.settings.generate import GenerateConfig, Sampling
from tests.generate.test_block_cache import same
from tests.generate.test_sampler import END, MASK, ORDERS, Scripted, answers, peaks, scripted  # noqa: F401, a fixture


@pytest.mark.parametrize(
    ("length", "block", "steps"), [(32, 8, 32), (18, 5, 7), (7, 3, 3), (512, 32, 100), (10, 4, 50)]
)
def test_steps_are_spread_over_the_blocks(length: int, block: int, steps: int) -> None:
    blocks = plan_blocks(GenerateConfig(max_new_tokens=length, block_length=block, steps=steps))
    assert [b.start for b in blocks] == list(range(0, length, block)) and blocks[-1].end == length
    assert sum(len(b.shares) for b in blocks) == steps
    for b in blocks:
        assert len(b.shares) >= 1 and abs(len(b.shares) - steps * (b.end - b.start) / length) < 1
        np.testing.assert_array_equal(b.shares, reveal_shares(len(b.shares)))
    assert [b.first_step for b in blocks] == np.cumsum([0, *(len(b.shares) for b in blocks[:-1])]).tolist()


def test_more_blocks_than_steps_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"steps is 3, but 16 new tokens in blocks of 4 are 4 blocks"):
        GenerateConfig(max_new_tokens=16, block_length=4, steps=3)
    GenerateConfig(max_new_tokens=16, block_length=4, steps=4)


def test_the_second_setting_inherits_the_blocks() -> None:
    config = GenerateConfig(max_new_tokens=16, block_length=4, refresh="block", threshold=0.9)
    second = Sampling().applied_to(config)
    assert (second.block_length, second.refresh, second.threshold) == (4, "block", 0.9)


def test_blocks_are_finished_from_the_left(scripted: type[Scripted]) -> None:  # noqa: F811
    """The surest positions are the last ones; whole, they come first."""
    model = scripted(peaks(*[(1, 1.0 + i) for i in range(6)]))
    whole = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=6))[0]
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=6, block_length=2))
    assert max(whole.unmasked_at[3:]) < max(whole.unmasked_at[:3])
    assert answer.tokens == [1] * 6 and answer.unmasked_at == [1, 1, 3, 3, 5, 5]
    assert answer.passes == model.passes - whole.passes


def test_a_row_stops_in_the_block_of_its_end_token(scripted: type[Scripted]) -> None:  # noqa: F811
    model = scripted(peaks((1, 9.0), (2, 9.0), (END, 9.0), (3, 9.0), (4, 9.0), (5, 9.0)))
    (answer,) = answers(model, [Request([0], 0)], GenerateConfig(max_new_tokens=6, block_length=2, steps=3))
    assert answer.tokens == [1, 2, END] and answer.ended
    assert answer.passes == model.passes == 2 and answer.steps == 2


# The threshold.


@pytest.mark.parametrize("order", ORDERS)
def test_all_sure_is_one_pass_a_block(scripted: type[Scripted], order: str) -> None:  # noqa: F811
    model = scripted(peaks(*[(1, 20.0)] * 7))
    config = GenerateConfig(max_new_tokens=7, block_length=3, threshold=0.9, order=order, steps=40)
    (answer,) = answers(model, [Request([0], 0)], config)
    assert answer.tokens == [1] * 7 and answer.passes == model.passes == 3
    assert len(set(answer.unmasked_at)) == 3


@pytest.mark.parametrize("order", ORDERS)
def test_none_sure_is_the_schedule(scripted: type[Scripted], order: str) -> None:  # noqa: F811
    model = scripted(peaks(*[(1, 1.0 + i / 10) for i in range(7)]))
    config = GenerateConfig(max_new_tokens=7, block_length=3, order=order)
    (plain,) = answers(model, [Request([0], 0)], config)
    (answer,) = answers(model, [Request([0], 0)], config.model_copy(update={"threshold": 0.9}))
    assert same(plain, answer)


def test_the_threshold_is_reached_at_equality_and_counts_the_surest_besides() -> None:
    """Of four hidden positions one is due; two more have the probability asked for, one has not."""
    row = Row(0, Request([0], 0), GenerateConfig(max_new_tokens=4, steps=3, threshold=0.75), blocks(4, 3), special())
    row.reveal(np.array([1, 2, 3, 4]), np.array([0.1, 0.2, 0.9, 0.3]), np.array([0.75, 0.74, 0.5, 0.8]))
    assert row.unmasked_at.tolist() == [0, -1, 0, 0]


def blocks(length: int, steps: int) -> list[denoising_row.Block]:
    return plan_blocks(GenerateConfig(max_new_tokens=length, steps=steps))


def special() -> denoising_row.Special:
    return denoising_row.Special(MASK, END)


@pytest.mark.parametrize("ranking", ["untempered", "official"])
def test_the_threshold_looks_at_the_untempered_probability(ranking: str) -> None:
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1, 1e-9], [0.05, 0.05, 0.1, 0.8]]))  # the last is the mask token
    config = GenerateConfig(temperature=0.05, top_p=0.5, threshold=0.9, ranking=ranking, order="maskgit_plus")
    tokens, confidence, probability = choose_rows(logits, torch.full((2,), 0.5), config, mask_id=3)
    assert tokens.tolist() == [0, 2]
    torch.testing.assert_close(probability, torch.tensor([0.6, 0.5], dtype=torch.float64), atol=1e-6, rtol=0.0)
    assert (confidence[0] > 0.99) == (ranking == "official")
