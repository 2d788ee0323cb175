"""The lookahead: how far beyond the current block the model sees, in the exact and in the cached decoding alike."""

from typing import Any

import pytest
import torch

from dreamtune.generate import sampler as module
from dreamtune.generate.sampler import Request
from dreamtune.settings.generate import GenerateConfig
from tests.generate.test_block_cache import always_refresh, model, requests, same  # noqa: F401, fixtures
from tests.generate.test_sampler import END, VOCAB, Scripted, answers, scripted  # noqa: F401, a fixture

BLOCKS = GenerateConfig(max_new_tokens=18, steps=18, block_length=5, seed=1)
CACHED = BLOCKS.model_copy(update={"refresh": "block"})


def looking(config: GenerateConfig, lookahead: int | None, **changes: Any) -> GenerateConfig:
    return config.model_copy(update={"lookahead": lookahead, **changes})


@pytest.mark.parametrize("config", [BLOCKS, CACHED], ids=["exact", "cached"])
def test_a_lookahead_over_the_limit_shows_the_whole_canvas(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    config: GenerateConfig,
) -> None:
    whole, wide, narrow = (answers(model, requests, looking(config, lookahead)) for lookahead in (None, 13, 2))
    assert all(same(a, b) for a, b in zip(whole, wide, strict=True))
    assert any(a.tokens != b.tokens for a, b in zip(whole, narrow, strict=True))


@pytest.mark.parametrize("lookahead", [0, 4])
@pytest.mark.parametrize("config", [BLOCKS, CACHED], ids=["exact", "cached"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_row_is_the_same_alone_and_in_any_batch(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    config: GenerateConfig,
    lookahead: int,
    temperature: float,
) -> None:
    config = looking(config, lookahead, temperature=temperature)
    asked = requests[1:5]  # of 4, 9, 20 and 21 tokens: two pairs of one width
    alone = [answers(model, [request], config)[0] for request in asked]
    together = answers(model, asked[::-1], looking(config, lookahead, batch_size=3))[::-1]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("lookahead", [0, 4])
def test_refreshed_at_each_step_the_cache_shows_what_the_exact_decoding_shows(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    always_refresh: None,  # noqa: F811
    lookahead: int,
) -> None:
    exact, cached = (answers(model, requests, looking(config, lookahead)) for config in (BLOCKS, CACHED))
    assert all(same(a, b) for a, b in zip(exact, cached, strict=True))


@pytest.mark.parametrize("config", [BLOCKS, CACHED], ids=["exact", "cached"])
def test_the_limit_changes_nothing_before_it(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    config: GenerateConfig,
) -> None:
    """The blocks up to 15 see 5 + 4, 10 + 4 and 15 + 4 positions whether the limit is 20 or 40."""
    short, long = (
        answers(model, requests[:3], looking(config, 4, max_new_tokens=limit, steps=limit)) for limit in (20, 40)
    )
    assert [a.tokens[:15] for a in short] == [a.tokens[:15] for a in long]
    unlimited = answers(model, requests[:3], looking(config, None, max_new_tokens=40, steps=40))
    assert [a.tokens[:15] for a in unlimited] != [a.tokens[:15] for a in long]


def test_the_model_sees_the_block_and_the_lookahead(
    scripted: type[Scripted],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a prompt of two tokens: blocks of 3 and a lookahead of 4, until the limit of 10."""
    seen = []

    def hidden(model: Scripted, input_ids: torch.Tensor, attention_mask: Any) -> torch.Tensor:
        seen.append(int(attention_mask.sum()))
        logits = torch.zeros(*input_ids.shape, VOCAB)
        logits[..., 1] = 9.0
        return logits

    model = scripted(None)  # noqa: F811
    monkeypatch.setattr(module, "hidden_states", hidden)
    config = GenerateConfig(max_new_tokens=10, block_length=3, lookahead=4, threshold=0.5)
    (answer,) = answers(model, [Request([0, 0], 0)], config)
    assert answer.tokens == [1] * 10 and END not in answer.tokens
    assert seen == [2 + 7, 2 + 10, 2 + 10, 2 + 10]
