"""The plan of micro-batches: what it chooses for which card, and that it gets smaller when it must."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamtune.errors import UserError
from dreamtune.train import micro_batch_plan as micro_batch_plan
from dreamtune.train.micro_batch_plan import (
    MicroBatchPlan,
    Shape,
    candidates,
    choose,
    cost,
    extra_gib,
    shrink,
    takes_graphs,
)
from tiny import settings

DREAM = Shape(layers=28, hidden=3584, intermediate=18944, vocabulary=152_064, packed=6_525_288_448, element=2)
CUDA = torch.device("cuda")
LOADED = 5.7  # GiB that the 7B takes in NF4


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that plans for a GPU of so many GiB, as `choose` does with the 7B on it."""
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, model: DREAM))

    def plan(gib: float, longest: int = 1024, window: float = 8192, **changes: Any) -> MicroBatchPlan:
        monkeypatch.setattr(micro_batch_plan, "free_gib", lambda device, limit: gib - LOADED - 1.0)
        asked = {"micro_batch_tokens": None} | changes
        return choose(torch.nn.Module(), settings(**asked), CUDA, longest, window)

    return plan


@pytest.mark.parametrize(("gib", "weights"), [(12, "packed"), (24, "dequantised"), (80, "dequantised")])
def test_every_card_has_a_plan_that_fits(card: Any, gib: float, weights: str) -> None:
    plan = card(gib)
    assert extra_gib(DREAM, plan, 1024) <= gib - LOADED - 1.0
    assert plan.weights == weights and plan.compile


def test_more_memory_is_never_slower(card: Any) -> None:
    costs = [cost(DREAM, card(gib)) for gib in (10, 12, 16, 24, 32, 40, 48, 80, 140)]
    assert costs == sorted(costs, reverse=True)
    assert card(140) == MicroBatchPlan(8192, 0, "dequantised", compile=True)


def test_rows_that_are_longer_than_a_pass_would_be_still_fit_into_one(card: Any) -> None:
    assert card(24, longest=4096, window=8 * 4096).micro_batch_tokens >= 4096


def test_small_windows_take_one_pass(card: Any) -> None:
    """A window of 8 GSM8K rows has some 1,330 tokens; those above the mean must not fall into two micro-batches."""
    assert 1330 < card(80, longest=458, window=1330).micro_batch_tokens < 2 * 1330


def test_what_the_user_sets_is_kept(card: Any) -> None:
    plan = card(80, micro_batch_tokens=512, recompute_layers=3, weights="packed", compile=False)
    assert plan == MicroBatchPlan(512, 3, "packed", compile=False)
    assert card(80, recompute_layers=1000).recompute_layers == 28


def test_fp8_weights_take_the_memory_of_dequantised_ones(card: Any) -> None:
    assert card(80, products="fp8") == card(80)
    assert card(24, products="fp8").weights == "dequantised"
    with pytest.raises(UserError, match="the smallest plan needs"):
        card(12, products="fp8")


SMALL = Shape(layers=30, hidden=576, intermediate=1536, vocabulary=49_152, packed=0, element=2, packs=True)


@pytest.mark.parametrize(
    ("shape", "left_gib", "asked", "expected"),
    [
        (SMALL, 40.0, None, True),
        (SMALL, 40.0, False, False),
        (SMALL, 0.5, None, False),  # activations are kept a second time
        (SMALL, 0.5, True, True),
        (replace(SMALL, packs=False), 40.0, None, False),
        (replace(SMALL, sharded=True), 40.0, None, False),
        (replace(DREAM, packs=True), 60.0, None, False),  # its kernels take longer than their launches
    ],
)
def test_graphs_where_they_pay_and_fit(shape: Shape, left_gib: float, asked: bool | None, expected: bool) -> None:
    plan = MicroBatchPlan(8192, 0, "dequantised", compile=True)
    assert takes_graphs(shape, plan, settings(graphs=asked), left_gib, 8192) == expected


@pytest.mark.parametrize("fault", [{"packs": False}, {"sharded": True}])
def test_graphs_that_cannot_be_had_are_refused(fault: dict[str, bool]) -> None:
    plan = MicroBatchPlan(8192, 0, "dequantised", compile=True)
    with pytest.raises(UserError, match=r"train\.graphs is true"):
        takes_graphs(replace(SMALL, **fault), plan, settings(graphs=True), 40.0, 8192)
    with pytest.raises(UserError, match="4 layers are recomputed"):
        takes_graphs(SMALL, replace(plan, recompute_layers=4), settings(graphs=True), 40.0, 8192)


def test_a_card_that_is_too_small_says_so(card: Any) -> None:
    with pytest.raises(UserError, match=r"smallest plan needs \d\.\d GiB beside the model, and 0\.3 GiB are free"):
        card(7.0, longest=8192)


def test_the_cpu_needs_no_plan() -> None:
    """Its memory is not counted, and its plan is the same on every machine, so that a resumed run has the same bits."""
    model = torch.nn.Module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shape, "of", classmethod(lambda cls, model: DREAM))
        plan = choose(model, settings(micro_batch_tokens=None), torch.device("cpu"), 100, 50.0)
    assert plan == MicroBatchPlan(micro_batch_plan.CPU_TOKENS, 0, "packed", compile=False)


def test_shrinking_ends() -> None:
    plan: MicroBatchPlan | None = MicroBatchPlan(8192, 0, "dequantised", compile=True)
    seen = []
    largest = 8000
    while plan is not None:
        seen.append(plan)
        largest = min(largest, plan.cut_tokens or largest)
        plan = shrink(plan, layers=28, largest=largest, longest=1500)
    assert [p.cut_tokens for p in seen] == [None, 4000, 2000, 1500, 1500]
    assert [p.recompute_layers for p in seen] == [0, 0, 0, 0, 28]
    assert {p.micro_batch_tokens for p in seen} == {8192}  # which documents stand together stays the plan's


@pytest.mark.parametrize("asked", [{"recompute_layers": 3}, {"compile": True}, {"weights": "dequantised"}])
def test_a_plan_that_was_made_before_gives_way_to_what_is_set_now(asked: dict[str, Any]) -> None:
    plan = MicroBatchPlan(512, 0, "packed", compile=False)
    assert plan.is_asked_for(settings(micro_batch_tokens=512)) and plan.is_asked_for(settings(micro_batch_tokens=None))
    assert not plan.is_asked_for(settings(micro_batch_tokens=511))
    assert not plan.is_asked_for(settings(micro_batch_tokens=512, **asked))


def test_gathered_weights_ask_for_large_passes() -> None:
    """Dream 7B, all weights trained on two 80 GB cards: 8 GiB are left, and gathering costs as much as 2,500 tokens."""
    sharded = replace(DREAM, packed=0, sharded=True)
    plans = list(candidates(sharded, settings(micro_batch_tokens=None), 1024, 16_384 / 2))
    best = min((p for p in plans if extra_gib(sharded, p, 1024) < 8), key=lambda p: cost(sharded, p))
    assert best.micro_batch_tokens == 8192 and best.recompute_layers > 20
    assert cost(sharded, best) < 0.5 * cost(sharded, replace(best, micro_batch_tokens=1024, recompute_layers=0))
