"""Which tokens are sure: a threshold, one that falls with certainty, Fast-dLLM's factor; and what unsure steps do."""

from typing import Any

import numpy as np
import pytest

from dreamtune.generate.row import Row, Special, plan_blocks
from dreamtune.generate.sampler import Request
from dreamtune.generate.sure import sure_tokens
from dreamtune.settings.generate import GenerateConfig
from tests.generate.test_sampler import Scripted, answers, peaks, scripted  # noqa: F401, a fixture

ONES = np.ones(4)


def fast_dllm(probability: np.ndarray, factor: float) -> set[int]:
    """Return the positions that Fast-dLLM reveals, by its own words: those up to the largest n within the bound."""
    order = sorted(range(len(probability)), key=lambda i: -probability[i])
    held = [n for n in range(1, len(order) + 1) if (n + 1) * (1 - probability[order[n - 1]]) < factor]
    return set(order[: max(held, default=0)])


@pytest.mark.parametrize("factor", [0.05, 0.3, 1.0, 5.0])
def test_the_factor_is_fast_dllms(factor: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        probability = 1 - random.random(9) ** 3
        sure = sure_tokens(probability, 3, GenerateConfig(factor=factor))
        assert set(np.flatnonzero(sure).tolist()) == fast_dllm(probability, factor)


def test_a_falling_threshold_is_the_plain_one_while_nothing_is_certain_and_lower_afterwards() -> None:
    falling = GenerateConfig(threshold=0.8, threshold_fall=0.5)
    low = np.array([0.7, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9])  # certainty 0.1
    assert not sure_tokens(low, 0, falling).any()  # 0.76 is asked for
    assert sure_tokens(low, 7, falling).tolist() == [True] + 6 * [False]  # certainty 0.55, 0.58 is asked for
    plain = GenerateConfig(threshold=0.8)
    for revealed in (0, 7):
        assert not sure_tokens(low, revealed, plain).any()
        assert sure_tokens(low + 0.15, revealed, plain).tolist() == [True] + 6 * [False]


def test_without_threshold_or_factor_nothing_is_sure() -> None:
    assert not sure_tokens(ONES, 0, GenerateConfig()).any()


def test_the_factor_reveals_in_the_sampler_what_the_threshold_would(scripted: type[Scripted]) -> None:  # noqa: F811
    model = scripted(peaks(*[(1, 20.0)] * 6))
    config = GenerateConfig(max_new_tokens=6, block_length=3)
    by_threshold, by_factor = (
        answers(model, [Request([0], 0)], config.model_copy(update=change))[0]
        for change in ({"threshold": 0.9}, {"factor": 0.5})
    )
    assert by_threshold.unmasked_at == by_factor.unmasked_at and by_factor.passes == 2


def row(**changes: Any) -> Row:
    settings = GenerateConfig(**{"max_new_tokens": 4, "refresh": "block"} | changes)
    return Row(0, Request([0], 0), settings, plan_blocks(settings), Special(9, 8))


def reveal(row: Row, *probability: float) -> None:
    """Let the candidates have these probabilities, which rank them too."""
    values = np.array(probability)
    row.reveal(np.ones(len(values), np.int64), values, values)


def test_an_unsure_step_from_the_cache_reveals_nothing_and_is_done_again_as_a_whole() -> None:
    asked = row(threshold=0.9, refresh_unsure=True)
    assert asked.refreshes
    reveal(asked, 0.3, 0.2, 0.1, 0.1)  # the first pass is whole: the best token counts
    assert asked.unmasked_at.tolist() == [1, -1, -1, -1] and not asked.refreshes
    reveal(asked, 0.5, 0.4, 0.3)
    assert asked.unmasked_at.tolist() == [1, -1, -1, -1] and asked.refreshes and asked.passes == 2
    reveal(asked, 0.5, 0.4, 0.3)
    assert asked.unmasked_at.tolist() == [1, 2, -1, -1] and not asked.refreshes
    reveal(asked, 0.95, 0.99)  # sure: no whole pass is needed
    assert asked.finished and asked.passes == 4


@pytest.mark.parametrize(
    ("every", "whole"), [(1, [1, 1, 1, 1, 1]), (2, [1, 0, 1, 0, 1]), (3, [1, 0, 0, 1, 0]), (None, [1, 0, 0, 0, 0])]
)
def test_the_whole_runs_at_every_so_many_passes(every: int | None, whole: list[int]) -> None:
    asked, seen = row(max_new_tokens=9, refresh_steps=every), list[int]()
    for _ in whole:
        seen.append(int(asked.refreshes))
        reveal(asked, *[0.5] * len(asked.candidates))
    assert seen == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.9, "factor": 1.0}, "threshold and factor"),
        ({"threshold_fall": 0.5}, "threshold is null"),
        ({"refresh": "block", "refresh_unsure": True}, "which tokens are sure"),
        ({"cache": "prefix"}, "cache is about cached keys"),
        ({"refresh_steps": 3}, "refresh_steps is about"),
        ({"neighbours": 3}, "neighbours is about"),
    ],
)
def test_a_setting_without_a_use_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**changes)
