"""The ways between exact decoding and one full pass a block: against a plain reference, and rows against batches."""

from typing import Any

import pytest
import torch

from dreamtune.generate import cached_steps
from dreamtune.generate.block_cache import BlockCache
from dreamtune.generate.sampler import Request
from dreamtune.settings.generate import GenerateConfig
from tests.generate.test_block_cache import always_refresh, model, requests, same  # noqa: F401, fixtures
from tests.generate.test_sampler import answers

BLOCKS: dict[str, Any] = {"max_new_tokens": 18, "steps": 18, "block_length": 5, "refresh": "block"}
WAYS: dict[str, dict[str, Any]] = {
    "every 3": {"refresh_steps": 3},
    "prefix": {"cache": "prefix"},
    "prefix, lookahead": {"cache": "prefix", "lookahead": 4},
    "neighbours": {"neighbours": 4},
    "neighbours, prefix": {"neighbours": 2, "cache": "prefix", "lookahead": 2},
    "unsure": {"threshold": 0.2, "refresh_unsure": True},
    "falling": {"threshold": 0.5, "threshold_fall": 0.8},
    "factor, every 4, sampled": {"factor": 2.0, "refresh_steps": 4, "temperature": 0.9},
}


@pytest.mark.parametrize("way", WAYS)
def test_refreshed_at_each_pass_every_way_is_the_exact_decoding(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    way: str,
) -> None:
    changes = WAYS[way] | {"refresh_steps": 1}
    plain = {name: value for name, value in changes.items() if name in ("threshold", "threshold_fall", "factor")}
    plain |= {name: changes[name] for name in ("lookahead", "temperature") if name in changes}
    exact = answers(model, requests[:5], GenerateConfig(**BLOCKS | plain | {"refresh": "step"}))
    cached = answers(model, requests[:5], GenerateConfig(**BLOCKS | changes, batch_size=3))
    assert all(same(a, b) for a, b in zip(exact, cached, strict=True))


@pytest.mark.parametrize("changes", [{"neighbours": 60}, {"neighbours": 60, "cache": "prefix", "lookahead": 4}])
def test_a_window_that_holds_everything_is_the_exact_decoding(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    changes: dict[str, Any],
) -> None:
    """Between the full passes no key is reused: what is computed is the whole row, through the cache's own path."""
    exact = GenerateConfig(**BLOCKS | {"refresh": "step", "lookahead": changes.get("lookahead")})
    cached = GenerateConfig(**BLOCKS | changes, batch_size=3)
    for a, b in zip(answers(model, requests[:5], exact), answers(model, requests[:5], cached), strict=True):
        assert same(a, b)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_the_same_alone_and_in_any_batch(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    way: str,
) -> None:
    config = GenerateConfig(**BLOCKS | WAYS[way])
    asked = requests[1:5]  # of 4, 9, 20 and 21 tokens: two pairs of one width
    alone = [answers(model, [request], config)[0] for request in asked]
    together = answers(model, asked[::-1], config.model_copy(update={"batch_size": 3}))[::-1]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


class Reference:
    """A plain cache: every pass runs whole canvases, and keys and values outside of the window are put back.

    Attributes:
        ids: [slots, L], the canvases.
        kept: for each layer [slots, heads, L, d] keys and values, as the last full pass or window computed them.
    """

    def __init__(self) -> None:
        self.refresh, self.windows = BlockCache.refresh, 0
        self.ids: dict[int, torch.Tensor] = {}

    def refreshed(self, cache: BlockCache, slots: torch.Tensor, ids: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """`BlockCache.refresh`, which also notes the canvases."""
        for slot, canvas in zip(slots.tolist(), ids, strict=True):
            self.ids[slot] = torch.nn.functional.pad(canvas, (0, cache.width - len(canvas)))
        return self.refresh(cache, slots, ids, *more)

    def window(
        self,
        cache: BlockCache,
        slots: torch.Tensor,
        ids: torch.Tensor,
        positions: torch.Tensor,
        scored: torch.Tensor,
    ) -> torch.Tensor:
        """The reference for `BlockCache.window`."""
        self.windows += 1
        rows = []
        for row, slot in enumerate(slots.tolist()):
            self.ids[slot][positions[row]] = ids[row]
            fresh = torch.zeros(cache.width, dtype=torch.bool)
            fresh[positions[row]] = True
            visible = cache.visible[slot][None]
            everywhere = torch.arange(cache.width)[None]
            hidden = cache._forward(self.ids[slot][None], everywhere, visible, PutBack(cache, slot, fresh))
            rows.append(hidden[0, positions[row, scored[row]]])
        return torch.stack(rows)


class PutBack:
    """The stored keys and values of one row, with those of the fresh positions replaced."""

    def __init__(self, cache: BlockCache, slot: int, fresh: torch.Tensor) -> None:
        self.cache, self.slot, self.fresh, self.layer = cache, slot, fresh, 0

    def of_layer(self, number: int) -> "PutBack":
        self.layer = number
        return self

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stored = (self.cache.keys[self.layer][self.slot], self.cache.values[self.layer][self.slot])
        fresh = self.fresh[:, None]
        return torch.where(fresh, key, stored[0]), torch.where(fresh, value, stored[1])


@pytest.mark.parametrize("way", WAYS)
def test_stored_keys_are_reused_where_the_plain_reference_reuses_them(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    config = GenerateConfig(**BLOCKS | WAYS[way], batch_size=2)
    found = answers(model, requests[2:5], config)
    reference = Reference()
    monkeypatch.setattr(BlockCache, "refresh", lambda cache, *given: reference.refreshed(cache, *given))
    monkeypatch.setattr(BlockCache, "window", lambda cache, *given: reference.window(cache, *given))
    expected = answers(model, requests[2:5], config)
    assert reference.windows and all(same(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("way", [*WAYS, "one step after the other"])
def test_all_slots_at_once_and_steps_without_looking_reveal_the_same(
    model: Any,  # noqa: F811
    requests: list[Request],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """As a GPU takes them: the windows of all slots, and several steps before a row sees what they revealed."""
    lengths: dict[str, Any] = {"max_new_tokens": 20, "steps": 14}
    config = GenerateConfig(**BLOCKS | lengths | WAYS.get(way, {}), batch_size=3)
    expected = answers(model, requests[:5], config)
    ahead, steps_ahead = list[int](), cached_steps.steps_ahead

    def counted(*given: Any) -> int:
        ahead.append(steps_ahead(*given))
        return ahead[-1]

    monkeypatch.setattr(cached_steps, "takes_all_slots", lambda cache: True)
    monkeypatch.setattr(cached_steps, "steps_ahead", counted)
    found = answers(model, requests[:5], config)
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert (max(ahead) > 1) == (way not in WAYS)


def test_full_passes_are_no_wider_than_what_the_model_sees(
    model: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt of 3 tokens, blocks of 5 and a lookahead of 4: 12 positions in the first block, at most 48."""
    seen, refresh = [], BlockCache.refresh

    def spied(cache: BlockCache, slots: torch.Tensor, ids: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        return refresh(cache, slots, ids, *more)

    monkeypatch.setattr(BlockCache, "refresh", spied)
    config = GenerateConfig(max_new_tokens=40, block_length=5, lookahead=4, refresh="block")
    answers(model, [Request([1, 2, 3], 0)], config)
    assert seen == sorted(seen) and seen[:2] == [16, 32]
