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

from dreamtune.lora import joined
from dreamtune.lora.folded import copy_adapters, stack_matrices
from dreamtune.lora.joined import ATTENTION, MLP, join, products
from dreamtune.model.loading import attach_lora, load
from dreamtune.model.logits import unwrap
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import collate
from dreamtune.settings.model import ModelConfig
from dreamtune.train.layers import prepare_layers
from tests.lora.test_joined import Products
from tests.objective.test_loss import WINDOW, flat
from tiny import make_model, plan, settings
from tolerance import float32_rounding

Make = Callable[..., Any]
KINDS = (torch.float32, torch.bfloat16, torch.bfloat16)
ALONE = ("o_proj", "down_proj")
VIEWS = {"view", "_unsafe_view", "t", "transpose", "split", "slice", "unsqueeze", "expand", "permute", "detach"}
VIEWS |= {"select", "unbind", "empty_like"}


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


def test_in_bf16_products_are_as_near_to_float32_as_separate_ones(make: Make) -> None:
    """As a GPU runs both, adapters in bf16 by autocast: outputs, and gradients of inputs and adapters."""
    lora = {"alpha": 12, "dtype": "bfloat16"}
    models = [make(fold=False, alpha=12), make(fold=False, **lora), make(**lora)]
    for exact, rounded in zip(unwrap(models[0]).parameters(), unwrap(models[2]).parameters(), strict=True):
        exact.data.copy_(rounded.data)
    found = [products_of(model, kind) for model, kind in zip(models, KINDS, strict=True)]
    for exact, separate, folded in zip(*found, strict=True):
        assert (folded - exact).norm() < 1.05 * (separate - exact).norm() < 0.02 * exact.norm()


def products_of(model: Any, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs of a layer's q, k, v, gate and up for some input, its gradient and the adapters'."""
    draw, layer = torch.Generator().manual_seed(3), unwrap(model).model.layers[0]
    x = torch.randn(1, 500, 32, generator=draw).bfloat16().to(unwrap(model).dtype).requires_grad_()
    copy_adapters(join(layer, queries_apart=False))
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        parents = ((layer.self_attn, ATTENTION), (layer.mlp, MLP))
        y = torch.cat([out for parent, names in parents for out in products(parent, names, x, False)], -1).float()
    (y * torch.randn(y.shape, generator=draw)).sum().backward()
    weights = [w for name, w in layer.named_parameters() if w.grad is not None and name.split(".")[1] not in ALONE]
    assert x.grad is not None and len(weights) == 10
    return y.detach(), x.grad.float(), torch.cat([w.grad.flatten() for w in weights if w.grad is not None])


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
    adapter = sum(w.nbytes for w in saved.values())  # columns: the B, and zeros between them
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
    assert counts[1]["mm"] + counts[1]["bmm"] < 0.8 * (counts[0]["mm"] + counts[0]["bmm"])
    assert counts[1].total() < 0.86 * counts[0].total()


def test_copies_and_their_gradients_take_few_operations(make: Make) -> None:
    """A `grad` is the very tensor that the copies' backward pass has made, in the type of its weight."""
    model = make(dtype="bfloat16", dropout=0.1, alpha=12)
    groups = [group for layer in unwrap(model).model.layers for group in join(layer, queries_apart=False)]
    with Products() as seen:
        copy_adapters(groups)
        copies = [group.inside for group in groups]
        copies += [block for group in groups for matrix in group.matrices for block in matrix.blocks]
        torch.autograd.backward(copies, [torch.ones_like(copy) for copy in copies])
    assert seen.calls["_foreach_copy_"] == 2 and seen.calls["_foreach_mul_"] == 1
    assert not seen.calls["clone"] and not seen.calls["_to_copy"]
    expected = {"lora_A": 1.0, "lora_B": 12 / 4}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad.unique().tolist() == [expected[name.split(".")[-3]]]


def test_layers_that_are_stacked_are_copied_by_one_call_each(make: Make) -> None:
    """And compute the same. Query, key and value of the last layer have matrices that no other layer has."""
    lora = {"dropout": 0.3, "rank": 8, "alpha": 5}
    (plain, exact), model = passed(make(**lora)), make(**lora)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    layers = unwrap(model).model.layers
    groups = [group for layer in layers for group in join(layer, queries_apart=False)]
    for _ in range(2):
        stack_matrices(groups)
        assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    loss, found = passed(model)
    assert loss == plain and torch.equal(found, exact) and len(layers) == 2
    with Products() as seen:
        copy_adapters(groups)
    assert seen.calls["stack"] == 4 and seen.calls["mul"] == 4 + 2 * 3
    with Products() as seen:
        copy_adapters(groups[:4])  # of one layer, each by itself
    assert seen.calls["stack"] == 0 and seen.calls["mul"] == 7
