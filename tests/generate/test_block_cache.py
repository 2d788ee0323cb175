"""Generation in blocks: the stored keys and values against full passes, and rows against batches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from conftest import FIXTURES
from dreamtune.generate.block_cache import BlockCache
from dreamtune.generate.row import Row
from dreamtune.generate.sampler import Answer, Request, denoise
from dreamtune.model.attention import row_boundaries
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.model.logits import hidden_states
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.lora import LoraSettings
from tests.generate.test_sampler import ORDERS, answers
from tolerance import model_tolerance, needs_mkl

FOLDERS = {"dream": FIXTURES / "dream_tiny", "llada": FIXTURES / "llada_tiny"}
LENGTHS = (3, 4, 9, 20, 21, 4, 30)


def pairwise(first: Sequence[Any], second: Sequence[Any], third: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Return triples in which every value of the first stands with every one of the second, the third taking turns.

    >>> pairwise("ab", (0, 1), "xy")
    [('a', 0, 'x'), ('a', 1, 'y'), ('b', 0, 'y'), ('b', 1, 'x')]
    """
    return [(a, b, third[(i + j) % len(third)]) for i, a in enumerate(first) for j, b in enumerate(second)]


@pytest.fixture(scope="module", params=["dream", "llada"])
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(FOLDERS[request.param], dtype="float32")


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    random = np.random.default_rng(0)
    return [Request(random.integers(0, 270, n).tolist(), 100 + n, n % 2) for n in LENGTHS]


@pytest.fixture
def always_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step be a full pass: the cached machinery without what makes it approximate."""
    reveal = Row.reveal

    def revealed(row: Row, *values: np.ndarray) -> None:
        reveal(row, *values)
        row.refreshes = True

    monkeypatch.setattr(Row, "reveal", revealed)


def same(a: Answer, b: Answer) -> bool:
    return (a.tokens, a.unmasked_at, a.steps, a.passes) == (b.tokens, b.unmasked_at, b.steps, b.passes)


@pytest.mark.parametrize(("order", "temperature", "block_length"), pairwise(ORDERS, (0.0, 0.9), (1, 5, 8, None)))
def test_refreshed_at_each_step_it_is_the_exact_decoding(
    model: Any, requests: list[Request], always_refresh: None, order: str, temperature: float, block_length: int | None
) -> None:
    exact = GenerateConfig(
        order=order, temperature=temperature, max_new_tokens=12, steps=12, block_length=block_length, seed=1
    )
    cached = exact.model_copy(update={"refresh": "block", "batch_size": 3})
    for a, b in zip(answers(model, requests, exact), answers(model, requests, cached), strict=True):
        assert same(a, b)


@pytest.mark.parametrize(
    ("order", "temperature", "ways"), pairwise(ORDERS, (0.0, 0.9), ((None, 2), (0.2, 4), (None, 4), (0.2, 2)))
)
def test_a_row_is_the_same_alone_and_in_any_batch(
    model: Any, requests: list[Request], order: str, temperature: float, ways: tuple[float | None, int]
) -> None:
    """All four at once, or two, whose place the others take."""
    threshold, batch_size = ways
    config = GenerateConfig(
        order=order, temperature=temperature, max_new_tokens=12, steps=10, block_length=5, refresh="block"
    ).model_copy(update={"threshold": threshold})
    requests = requests[::2]
    alone = [answers(model, [request], config)[0] for request in requests]
    together = answers(model, requests[::-1], config.model_copy(update={"batch_size": batch_size}))[::-1]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def spied(model: Any, requests: list[Request], config: GenerateConfig, seen: dict[Any, Any]) -> None:
    """Generate, and keep for each window by its canvas what came out of its hidden rows."""
    window = BlockCache.window

    def spy(cache: BlockCache, slots: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, scored: Any) -> Any:
        hidden = window(cache, slots, ids, positions, scored)
        for row, slot in enumerate(slots.tolist()):
            stored = cache.keys[-1][slot].numpy().tobytes()
            key = (stored, ids[row].numpy().tobytes(), positions[row].numpy().tobytes())
            seen[key] = hidden[row].clone()
        return hidden

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockCache, "window", spy)
        answers(model, requests, config)


@needs_mkl
@pytest.mark.parametrize(("block_length", "adapter"), [(3, True), (5, False), (12, True)])
def test_windows_are_equal_to_the_bit_alone_and_in_a_batch(model: Any, block_length: int, adapter: bool) -> None:
    """Equality does not rest on luck between near ties; the stored keys are part of what must agree."""
    if adapter:
        model = tuned(model)
    random = np.random.default_rng(0)
    requests = [Request(random.integers(0, 270, n).tolist(), n) for n in (3, 17, 38)]
    config = GenerateConfig(max_new_tokens=12, steps=15, block_length=block_length, refresh="block")
    alone, together = dict[Any, Any](), dict[Any, Any]()
    for request in requests:
        spied(model, [request], config, alone)
    for batch_size in (2, 16):
        spied(model, requests, config.model_copy(update={"batch_size": batch_size}), together)
    assert together and all(torch.equal(alone[key], hidden) for key, hidden in together.items())


def tuned(model: Any) -> Any:
    """Return a fresh copy of the model, with an adapter that changes its output."""
    settings = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])
    wrapped = attach_lora(load_model(model.name_or_path, dtype="float32"), settings, 0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


class Case:
    """Three rows of differing lengths with a block somewhere in each, in slots that are not in order."""

    def __init__(self, model: Any, block: int = 5, width: int = 48) -> None:
        config = GenerateConfig(max_new_tokens=block, refresh="block")
        self.model, self.block = model, block
        self.cache = BlockCache(model, 4, width, block, config, model.config.mask_token_id)
        self.slots, starts = torch.tensor([2, 0, 3]), torch.tensor([7, 20, 39])
        self.ids = torch.from_numpy(np.random.default_rng(0).integers(0, 270, (3, width)))
        self.visible = torch.arange(width) < torch.tensor([[25], [30], [48]])
        self.length = block + self.cache.shift
        self.positions = starts[:, None] + torch.arange(self.length) - self.cache.shift  # [3, w]
        self.tokens = starts[:, None] + torch.arange(block)  # [3, block]
        self.columns = torch.arange(block).expand(4, -1)

    def full(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return the block's hidden rows [3, block, D] of a full pass without any cache."""
        hidden = hidden_states(self.model, self.ids if ids is None else ids, self.visible.long())
        return hidden.gather(1, self.tokens[..., None].expand(-1, -1, hidden.shape[-1]))

    def refresh(self) -> torch.Tensor:
        boundaries = torch.from_numpy(row_boundaries(self.visible.numpy()))
        scored = self.tokens - self.cache.shift
        return self.cache.refresh(self.slots, self.ids, self.visible, boundaries, scored)

    def window(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        ids = self.ids if ids is None else ids
        return self.cache.window(self.slots, ids.gather(1, self.positions), self.positions, self.columns[:3])


@pytest.fixture(params=["plain", "adapter", "packed"])
def case(model: Any, request: pytest.FixtureRequest) -> Case:
    case = Case(tuned(model) if request.param == "adapter" else model)
    case.cache.packs = request.param == "packed"  # as a GPU passes rows that begin a block
    return case


@pytest.mark.numeric
@torch.no_grad()
def test_right_after_a_refresh_a_window_is_a_full_pass(case: Case) -> None:
    expected = case.full()
    torch.testing.assert_close(case.refresh(), expected, **model_tolerance(expected, case.model.config))
    for _ in range(2):  # a window changes nothing that the next one reads
        torch.testing.assert_close(case.window(), expected, **model_tolerance(expected, case.model.config))


@torch.no_grad()
def test_all_slots_at_once_are_the_same_windows(model: Any) -> None:
    """As a GPU takes them, in place; the slot that no row has may hold anything, but numbers."""
    case = Case(model)
    case.refresh()
    expected = case.window()
    tolerance = model_tolerance(expected, model.config)
    ids = torch.zeros(4, case.length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    ids[case.slots], positions[case.slots] = case.ids.gather(1, case.positions), case.positions
    for _ in range(2):
        hidden = case.cache.window(None, ids, positions, case.columns)
        assert hidden.isfinite().all()
        torch.testing.assert_close(hidden[case.slots], expected, **tolerance)


@torch.no_grad()
def test_a_stale_or_missing_refresh_shows(case: Case) -> None:
    """Planted: the prompt changed since the refresh, or there was none."""
    never = case.window()
    expected = case.full()
    assert (never - expected).abs().max() > 1e-2
    case.refresh()
    changed = case.ids.clone()
    changed[:, :3] = (changed[:, :3] + 1) % 270
    assert (case.full(changed) - case.window(changed)).abs().max() > 1e-3
    changed = case.ids.clone()
    changed.scatter_(1, case.tokens, (changed.gather(1, case.tokens) + 1) % 270)
    torch.testing.assert_close(case.window(changed)[:, :1].isfinite().all(), torch.tensor(True))
    assert (case.window(changed) - expected).abs().max() > 1e-2, "the block's own tokens are not seen"


@torch.no_grad()
def test_what_fills_a_window_up_is_not_stored(model: Any) -> None:
    """5 or 6 columns are filled up to 16; keys at all other positions stay those of the refresh."""
    case = Case(model)
    case.refresh()
    before = [keys.clone() for keys in case.cache.keys]
    ids = torch.zeros(4, case.length, dtype=torch.long)
    positions = torch.full_like(ids, 30) + torch.arange(case.length)
    case.cache.window(None, ids, positions, case.columns)
    outside = [i for i in range(48) if i not in positions[0].tolist()]
    for keys, old in zip(case.cache.keys, before, strict=True):
        assert torch.equal(keys[:, :, outside], old[:, :, outside])
        assert not torch.equal(keys[:, :, positions[0]], old[:, :, positions[0]])


def test_the_cache_is_used_and_refreshed_once_a_block(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"refresh": 0, "window": 0}
    for name in counts:
        method: Callable[..., Any] = getattr(BlockCache, name)

        def counted(*values: Any, name: str = name, method: Callable[..., Any] = method) -> Any:
            counts[name] += 1
            return method(*values)

        monkeypatch.setattr(BlockCache, name, counted)
    monkeypatch.setattr(Row, "_length", lambda row: len(row.tokens))  # no end token ends an answer early
    config = GenerateConfig(max_new_tokens=16, block_length=4, refresh="block")
    (answer,) = answers(model, requests[:1], config)
    assert counts == {"refresh": 4, "window": answer.passes - 4} and len(answer.tokens) == 16
    assert all(set(answer.unmasked_at[i : i + 4]) <= set(range(i, i + 4)) for i in range(0, 16, 4))


def test_the_threshold_saves_passes_with_the_cache(model: Any, requests: list[Request]) -> None:
    config = GenerateConfig(max_new_tokens=16, block_length=8, refresh="block", batch_size=4)
    plain = [a for _, a in denoise(model, requests, config)]
    quick = [a for _, a in denoise(model, requests, config.model_copy(update={"threshold": 1e-6}))]
    assert all(a.passes <= 2 for a in quick) and max(a.passes for a in plain) > 8
