"""Adapters in columns of their frozen matrices: the gradients of separate products, and modules that look as before."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from dreamtune.model import joined
from dreamtune.model.loading import attach_lora, load
from dreamtune.model.logits import unwrap
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import collate
from dreamtune.settings.model import ModelConfig
from dreamtune.train.layers import prepare_layers
from tests.model.test_joined import Products
from tests.objective.test_loss import WINDOW, flat
from tiny import make_model, plan, settings
from tolerance import float32_rounding

Make = Callable[..., Any]
VIEWS = {"view", "t", "transpose", "split", "slice", "unsqueeze", "expand", "permute", "detach", "select", "unbind"}


@pytest.fixture
def base(tmp_path: Path) -> ModelConfig:
    return make_model(tmp_path / "base")


@pytest.fixture
def make(base: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that makes the same adapted model again, prepared for training: folded, or not."""

    def fresh(fold: bool = True, shared: bool = False, recompute: int = 0, dtype: str = "float32", **lora: Any) -> Any:
        asked = {"dropout": 0.0, "target_modules": ["all-linear"], **lora}
        loaded = load(base.model_copy(update={"dtype": dtype}))
        model = attach_lora(loaded, settings().lora.model_copy(update=asked), 0).train()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(weight, std=0.05)
        with monkeypatch.context() as patch:
            if not fold:
                patch.setattr(joined, "fold", lambda *_: None)
            prepare_layers(model, replace(plan(), recompute_layers=recompute), shared)
        return model

    return fresh


def passed(model: Any, kind: torch.dtype = torch.float32) -> tuple[float, Tensor]:
    """Return the loss of a window and its gradient, flat, with the dropout of one seed."""
    model.zero_grad()
    torch.manual_seed(7)
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        loss, _ = loss_sums(model, collate(WINDOW, multiple=16))
    (loss / 50).backward()
    return loss.item(), flat(model)


@pytest.mark.parametrize(
    ("targets", "rank", "shared"),
    [
        ("all-linear", 8, False),
        ("all-linear", 8, True),
        ("all-linear", 1, False),
        ("q_proj v_proj", 3, False),
        ("k_proj up_proj", 4, True),
        ("o_proj down_proj", 2, False),
    ],
)
def test_loss_and_gradient_are_those_of_separate_products(make: Make, targets: str, rank: int, shared: bool) -> None:
    """With the same dropout masks."""
    lora = {"dropout": 0.3, "rank": rank, "alpha": 5, "target_modules": targets.split(), "shared": shared}
    (plain, exact), (loss, found) = passed(make(fold=False, **lora)), passed(make(**lora))
    assert loss == pytest.approx(plain, rel=float32_rounding(100))
    assert (found - exact).norm() < float32_rounding(1000) * exact.norm()


def test_in_bf16_it_is_as_near_to_float32_as_separate_products(make: Make) -> None:
    """As a GPU runs both: adapters in bf16 by autocast."""
    rounded = make(dtype="bfloat16", alpha=12)
    exact = make(alpha=12, fold=False)
    frozen = dict(unwrap(rounded).named_parameters())
    for name, weight in unwrap(exact).named_parameters():
        weight.data.copy_(frozen[name].data)
    _, reference = passed(exact)
    found = [passed(m, torch.bfloat16)[1] for m in (rounded, make(dtype="bfloat16", alpha=12, fold=False))]
    errors = [float((each - reference).norm() / reference.norm()) for each in found]
    assert errors[0] < 1.1 * errors[1] < 0.1


def test_recomputed_layers_and_several_passes_in_flight(make: Make) -> None:
    """The copies of a second pass are no edit of what the first has saved for its backward pass."""
    exact, model = passed(make(fold=False))[1], make(recompute=1)
    losses = [loss_sums(model, collate(WINDOW, multiple=16))[0] / 50 for _ in range(2)]
    sum(losses).backward()
    assert (flat(model) / 2 - exact).norm() < float32_rounding(1000) * exact.norm()


def test_each_pass_copies_the_weights_as_they_are(make: Make) -> None:
    pair = [make(fold=False), make()]
    for _ in range(3):
        losses = []
        for model in pair:
            losses.append(passed(model)[0])
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.grad is not None:
                        weight -= 0.1 * weight.grad / weight.grad.norm()
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_modules_look_as_before(make: Make, base: ModelConfig) -> None:
    """Frozen weights, the saved adapter and the merged model are the same bits; their memory has not doubled."""
    plain, model = make(fold=False), make()
    before = dict(plain.named_parameters())
    passed(model)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name
    saved, other = (get_peft_model_state_dict(each) for each in (model, plain))
    assert saved.keys() == other.keys() and all(torch.equal(saved[key], other[key]) for key in saved)
    frozen = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in unwrap(model).parameters()}
    adapter = sum(w.nbytes for w in saved.values())  # the columns are as many numbers as the B; gate and up share theirs
    assert sum(frozen.values()) < sum(w.nbytes for w in before.values()) + 2 * adapter
    merged, expected = (each.merge_and_unload().state_dict() for each in (model, plain))
    assert all(torch.equal(weight, expected[name]) for name, weight in merged.items())


def test_there_are_fewer_operations(make: Make) -> None:
    """Of a pass forward and backward; and no gradient is copied once more where it becomes a weight's `grad`."""
    counts = []
    for fold in (False, True):
        model = make(fold=fold, dropout=0.1, dtype="bfloat16")
        with Products() as seen:
            passed(model, torch.bfloat16)
        calls = Counter({name: count for name, count in seen.calls.items() if name not in VIEWS})
        counts.append(calls)
    assert counts[1]["clone"] <= counts[0]["clone"]
    assert counts[1]["mm"] + counts[1]["bmm"] < 0.75 * (counts[0]["mm"] + counts[0]["bmm"])
    assert counts[1].total() < 0.85 * counts[0].total()
