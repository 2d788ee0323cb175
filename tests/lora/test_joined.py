"""Layers as training runs them: the gradient of PEFT's own modules, in fewer products, at the rows that are scored."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dreamtune.lora.joined import adapter_updates, rotate
from dreamtune.model.loading import attach_lora, load
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import keep_dequantised
from dreamtune.objective.diffusion import Noised
from dreamtune.objective.loss import loss_sums, supervised_rows, token_losses
from dreamtune.objective.packing import collate, hidden_rows, split_window
from dreamtune.train.layers import prepare_layers
from tests.objective.test_loss import WINDOW, flat, reference
from tiny import make_model, plan, settings
from tolerance import float32_rounding

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes the same adapted model again."""
    config = make_model(tmp_path / "base")

    def fresh(targets: str = "all-linear", dropout: float = 0.0, dense: bool = True, **changes: Any) -> Any:
        lora = settings().lora.model_copy(update={"dropout": dropout, "target_modules": targets.split()})
        base = load(config.model_copy(update=changes))
        model = attach_lora(keep_dequantised(base) if dense else base, lora, 0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(weight, std=0.05)
        return model

    return fresh


def gradient(model: Any, budget: int = 50) -> Tensor:
    """Return the gradient of the window's loss as training adds it up, flat."""
    model.zero_grad()
    micro_batches: list[list[Noised]] = split_window(WINDOW, budget)
    tokens = sum(row.loss_tokens for rows in micro_batches for row in rows)
    for rows in micro_batches:
        (loss_sums(model, collate(rows, multiple=16))[0] / tokens).backward()
    return flat(model)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj v_proj", "k_proj", "up_proj down_proj"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_gradient_is_the_reference(make: Make, targets: str, dtype: str, tolerance: float) -> None:
    """In float64, document by document, through PEFT's modules and all rows of all layers."""
    exact, model = reference(make(targets, dtype=dtype)), make(targets, dtype=dtype)
    prepare_layers(model, plan())
    found = gradient(model)
    assert (found - exact).norm() / exact.norm() < tolerance


@pytest.mark.parametrize("targets", ["all-linear", "k_proj v_proj gate_proj"])
@pytest.mark.parametrize("shared", [True, False])
def test_with_dropout_too(make: Make, targets: str, shared: bool) -> None:
    """With a probability that drops nothing in practice, so that only the products of dropout's way differ."""
    exact, model = reference(make(targets)), make(targets, dropout=1e-12).train()
    prepare_layers(model, plan(), shared)
    found = gradient(model)
    assert (found - exact).norm() / exact.norm() < 1e-4


@pytest.mark.parametrize("shared", [True, False])
def test_packed_weights_and_recomputed_layers_too(make: Make, shared: bool) -> None:
    whole, packed = (make(quantization="nf4", dense=dense) for dense in (True, False))
    prepare_layers(whole, plan(), shared)
    prepare_layers(packed, replace(plan(), recompute_layers=1), shared)
    exact = gradient(whole)
    assert (gradient(packed) - exact).norm() < float32_rounding(1000) * exact.norm()


def test_names_and_numbers_of_the_adapter_stay(make: Make) -> None:
    """Preparing twice changes nothing more; without gradients the modules run as PEFT has them."""
    plain, model = make(), make()
    for _ in range(2):
        prepare_layers(model, plan())
    names, batch = plain.state_dict(), collate(WINDOW)
    assert {name: w.shape for name, w in model.state_dict().items()} == {name: w.shape for name, w in names.items()}
    assert all(torch.equal(weight, names[name]) for name, weight in model.state_dict().items())
    assert torch.equal(token_losses(model, batch), token_losses(plain, batch))


def test_only_supervised_rows_leave_the_last_layer(make: Make) -> None:
    model, batch = make(), collate(WINDOW)
    every = hidden_rows(model, batch)[batch.positions]
    prepare_layers(model, plan())
    rows = []
    layer = unwrap(model).model.layers[-1]
    layer.mlp.act_fn.register_forward_hook(lambda *found: rows.append(found[-1].shape[1]))
    torch.testing.assert_close(supervised_rows(model, batch), every, rtol=1e-4, atol=1e-5)
    assert rows == [len(batch.positions)]


class Products(TorchDispatchMode):
    """Counts calls by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_there_are_fewer_products_and_one_dropout_for_each_input(make: Make) -> None:
    """Of 7 frozen products 5 are left in a layer (6 in the last), of 14 of adapters 4 (5), of 7 dropouts 4 (5)."""
    counts = []
    for prepared, shared in ((False, False), (True, False), (True, True)):
        model = make(dropout=0.1).train()
        if prepared:
            prepare_layers(model, plan(), shared)
        with Products() as seen:
            loss_sums(model, collate(WINDOW))
        counts.append((sum(seen.calls[name] for name in ("mm", "addmm", "bmm")), seen.calls["bernoulli_"]))
    head = 2  # logits, and their gradient
    assert counts[0] == (2 * (7 + 14) + head, 14)
    assert counts[1] == counts[2] == ((5 + 4) + (6 + 5) + head, 4 + 5)


@pytest.mark.parametrize("names", [("gate_proj", "up_proj"), ("q_proj", "k_proj")])
def test_shared_dropout_is_one_noise(make: Make, names: tuple[str, str]) -> None:
    """Of two adapters with the same first matrix; unshared, each blanks numbers of its own."""
    layer = unwrap(make("all-linear", dropout=0.5).train()).model.layers[-1]
    one, other = (getattr(layer.mlp if "gate_proj" in names else layer.self_attn, name) for name in names)
    other.lora_A.default.weight.data.copy_(one.lora_A.default.weight)
    rank = one.r["default"]
    for adapter in (one, other):
        nn.init.eye_(adapter.lora_B.default.weight.data)
    for shared in (True, False):
        a, b = adapter_updates([one, other], torch.randn(2, 9, one.in_features), shared)
        assert a[..., :rank].norm() > 0 and torch.equal(a[..., :rank], b[..., :rank]) == shared


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_rotary_embeddings_are_those_of_transformers_to_the_bit(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(2, 3, 7, 8).to(kind).requires_grad_(), torch.randn(2, 7, 4).repeat(1, 1, 2)
    cos, sin, upstream = angles.cos().to(kind), angles.sin().to(kind), torch.randn(2, 3, 7, 8).to(kind)
    found, wanted = rotate(x, cos, sin), apply_rotary_pos_emb(x, x, cos, sin)[0]
    assert torch.equal(found, wanted)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (found, wanted)]
    assert torch.equal(*gradients)
