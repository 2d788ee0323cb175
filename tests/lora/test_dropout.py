"""Dropout by a hash: as often as asked for, independent from number to number and from call to call."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dreamtune.lora.dropout import dropout, hashed_dropout, mixed

SIZE = 1 << 20


def draw(p: float = 0.5, shape: tuple[int, ...] = (SIZE,)) -> torch.Tensor:
    """Return a mask, 1.0 where a number was kept."""
    return (hashed_dropout(torch.ones(shape), p) > 0).double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def reference(word: int) -> int:
    """lowbias32 as its author wrote it in C."""
    word = word ^ word >> 16
    word = word * 0x7FEB352D % 2**32
    word = word ^ word >> 15
    word = word * 0x846CA68B % 2**32
    return word ^ word >> 16


def test_the_hash_is_the_published_one() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    found = mixed(torch.from_numpy(words.view(np.int32))).numpy().view(np.uint32)
    assert found.tolist() == [reference(int(word)) for word in words]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_numbers_are_dropped_as_often_as_asked_for_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    spread = (p * (1 - p) / SIZE) ** 0.5
    for _ in range(20):
        assert abs(draw(p).mean() - (1 - p)) < 4.5 * spread
    kept = hashed_dropout(torch.full((SIZE,), 3.0), p)
    assert kept[kept > 0].unique().tolist() == pytest.approx([3 / (1 - p)])


def test_masks_are_independent_of_places_and_of_calls() -> None:
    """Neighbours along either axis, the same place in another call, and another call shifted against this one."""
    torch.manual_seed(0)
    masks = [draw(shape=(1024, 1024)) for _ in range(20)]
    limit = 5 / SIZE**0.5
    for one, other in zip(masks, [*masks[1:], masks[0]], strict=True):
        flat = one.flatten()
        assert all(abs(correlation(flat[:-shift], flat[shift:])) < limit for shift in (1, 2, 64, 1024, 4096))
        assert all(abs(correlation(flat, other.flatten().roll(shift))) < limit for shift in (0, 1, 1024))


def test_sums_over_rows_and_columns_vary_as_those_of_independent_draws_do() -> None:
    torch.manual_seed(0)
    for _ in range(10):
        mask = draw(0.05, (1024, 1024))
        for axis in (0, 1):
            assert mask.sum(axis).var().item() == pytest.approx(1024 * 0.05 * 0.95, rel=5 * (2 / 1023) ** 0.5)


def test_the_seed_decides_and_the_gradient_has_the_same_mask() -> None:
    x = torch.randn(64, 32, requires_grad=True)
    torch.manual_seed(3)
    found = hashed_dropout(x, 0.3)
    found.sum().backward()
    torch.manual_seed(3)
    assert torch.equal(found, hashed_dropout(x, 0.3)) and not torch.equal(found, hashed_dropout(x, 0.3))
    assert x.grad is not None and torch.equal(x.grad, (found != 0) / (1 - 0.3))


@pytest.mark.parametrize("training", [True, False])
def test_compiled_code_takes_the_hash_and_nothing_else_does(training: bool) -> None:
    calls: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        calls.append(str(graph.graph))
        run: Callable[..., object] = graph.forward
        return run

    module = nn.Dropout(0.5).train(training)
    x = torch.ones(4096)
    compiled = torch.compile(lambda x: dropout(module, x), backend=backend)(x)
    assert ("randint" in calls[0]) == training and "bernoulli" not in calls[0]
    assert set(compiled.unique().tolist()) == ({0.0, 2.0} if training else {1.0})
    torch.manual_seed(0)
    plain = dropout(module, x)
    torch.manual_seed(0)
    assert torch.equal(plain, module(x))
