"""FP8 products of frozen layers, which a CPU emulates: the same FP8 numbers, multiplied in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from documents import document, noise
from dreamtune.errors import UserError
from dreamtune.model import fp8
from dreamtune.model.fp8 import Fp8Linear, check_fp8, rounded_rows, use_fp8
from dreamtune.model.loading import attach_lora, count_parameters, load
from dreamtune.model.logits import unwrap
from dreamtune.model.nonfinite import nonfinite_weight
from dreamtune.objective.diffusion import corrupt
from dreamtune.objective.loss import loss_sums, token_losses
from dreamtune.objective.packing import collate
from dreamtune.train.layers import prepare_layers
from dreamtune.train.micro_batch_plan import MicroBatchPlan
from tiny import make_model, settings

EIGHTH = 2**-3  # E4M3 has three bits of mantissa: rounding changes a number by at most a 16th


@pytest.fixture
def model(tmp_path: Path) -> Any:
    config = make_model(tmp_path / "base").model_copy(update={"dtype": "bfloat16"})
    tuned = attach_lora(load(config), settings().lora.model_copy(update={"dropout": 0.0}), 0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.05)
    return tuned.eval()


def test_rows_are_rounded_by_themselves() -> None:
    x = torch.randn(5, 64) * torch.tensor([1e-6, 1.0, 1e3, 0.0, 1.0])[:, None]
    held, scales = rounded_rows(x)
    back = held.float() * scales
    assert scales.shape == (5, 1) and torch.equal(back[3], x[3])
    assert ((back - x).abs() <= EIGHTH / 2 * x.abs() + scales * 2**-9).all()
    assert torch.equal(rounded_rows(x[1:2])[0].float(), held[1:2].float())
    assert rounded_rows(x.T)[0].is_contiguous()  # as the GPU's product wants them, whatever the layout of a gradient
    x[4, 7] = float("inf")
    assert rounded_rows(x)[0][4].float().isnan().any()  # never hidden as a large number


def test_a_layer_by_hand() -> None:
    """Rows of one number and zeros are exact in FP8: output and input gradient are those of the layer itself."""
    layer = nn.Linear(16, 32).requires_grad_(False)
    layer.weight.copy_(torch.eye(32, 16) * 2)
    rounded = Fp8Linear(layer)
    x, upstream = torch.eye(3, 16).requires_grad_(), torch.eye(3, 32)
    out = rounded(x[None])
    torch.testing.assert_close(out, layer(x)[None])
    out.backward(upstream[None])
    torch.testing.assert_close(x.grad, upstream @ layer.weight)


def test_generation_multiplies_the_same_numbers() -> None:
    """Its kernel for few rows leaves the scales to the end; bias, padding to 16 rows and shapes are the same."""
    layer = nn.Linear(32, 48).requires_grad_(False)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Fp8Linear(layer, trains=False)(x), Fp8Linear(layer)(x))


def test_a_layer_is_compiled_whole() -> None:
    """Forward and backward pass without a graph break, so that the rounding becomes part of the kernels around it."""
    rounded = Fp8Linear(nn.Linear(32, 64).requires_grad_(False))
    compiled = torch.compile(rounded, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        x, same = (torch.randn(1, rows, 32, generator=torch.manual_seed(0)).requires_grad_() for _ in range(2))
        for function, given in ((rounded, x), (compiled, same)):
            function(given).square().sum().backward()
        torch.testing.assert_close(same.grad, x.grad)


def test_decoder_layers_are_compiled(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes a global float for a variable, and failed inside the product's autograd function."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **named: compile_(function, backend="aot_eager", **named))
    torch._dynamo.reset()
    use_fp8(unwrap(model).model.layers)
    batches = [collate([corrupt(document(e, 3, n + e, 1), noise(rate=0.5)) for e in range(3)]) for n in (20, 30)]
    plain = [gradient(model, batch) for batch in batches]
    prepare_layers(model, MicroBatchPlan(1000, 0, "dequantised", compile=True))
    for batch, exact in zip(batches, plain, strict=True):
        assert (gradient(model, batch) - exact).norm() < 0.3 * exact.norm()


def gradient(model: Any, batch: Any) -> Tensor:
    model.zero_grad()
    loss_sums(model, batch)[0].backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def test_gradients_are_near_those_of_the_model_itself(model: Any) -> None:
    """As near as rounding to three bits leaves those of a random model; weights and names are the same."""
    batch = collate([corrupt(document(e, 3, 20 + e, 1), noise(rate=0.5)) for e in range(4)])
    exact, names, counts = gradient(model, batch), sorted(model.state_dict()), count_parameters(model)
    assert use_fp8(unwrap(model).model.layers) == 14
    found = gradient(model, batch)
    assert 0.01 < (found - exact).norm() / exact.norm() < 0.5
    assert sorted(model.state_dict()) == names and count_parameters(model) == counts
    assert nonfinite_weight(model) is None


@pytest.mark.parametrize("shared", [True, False])
def test_layers_as_training_runs_them_have_the_gradient_of_pefts_modules(model: Any, shared: bool) -> None:
    """FP8 layers are multiplied one by one; the last layer computes the supervised rows alone."""
    use_fp8(unwrap(model).model.layers)
    batch = collate([corrupt(document(e, 3, 20 + e, 1), noise(rate=0.5)) for e in range(4)])
    exact = gradient(model, batch)
    prepare_layers(model, MicroBatchPlan(1000, 0, "dequantised", compile=False), shared)
    assert (gradient(model, batch) - exact).norm() < 0.05 * exact.norm()  # bf16 rounds sums in another order


@pytest.mark.parametrize("other", [1.0, 1000.0])
def test_a_document_does_not_change_with_its_neighbour(model: Any, other: float) -> None:
    """To the bit, though the neighbour's numbers are a thousand times as large."""
    use_fp8(unwrap(model).model.layers)
    rows = [corrupt(document(e, 3, 30, 1), noise(rate=0.5)) for e in range(3)]
    model.get_input_embeddings().weight.data[rows[1].document.tokens] *= other
    with torch.no_grad():
        together, alone = token_losses(model, collate(rows[:2])), token_losses(model, collate(rows[:1]))
        beside = token_losses(model, collate([rows[0], rows[2]]))
    assert torch.equal(together[: len(alone)], beside[: len(alone)]) and torch.equal(beside[: len(alone)], alone)


def test_one_scale_for_all_would_let_documents_see_each_other(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above would catch."""

    def one_scale(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = x.float().abs().max() / torch.finfo(fp8.FP8).max
        return (x.float() / scale).to(fp8.FP8), scale.expand(len(x), 1)

    use_fp8(unwrap(model).model.layers)
    monkeypatch.setattr(fp8, "rounded_rows", one_scale)
    rows = [corrupt(document(e, 3, 30, 1), noise(rate=0.5)) for e in range(2)]
    with torch.no_grad():
        together, alone = token_losses(model, collate(rows)), token_losses(model, collate(rows[:1]))
    assert not torch.equal(together[: len(alone)], alone)


def test_refused_without_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"and the CPU has none; set train\.products to bf16"):
        check_fp8(torch.device("cpu"), "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    for capability, dtype, said in (((8, 0), "bfloat16", "A100 has none"), ((9, 0), "float32", "not float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        with pytest.raises(UserError, match=said):
            check_fp8(torch.device("cuda"), dtype)
    check_fp8(torch.device("cuda"), "bfloat16")


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="multiples of 16, and 0 is 32 x 24"):
        use_fp8(nn.Sequential(nn.Linear(24, 32)).requires_grad_(False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpus_product_is_the_emulated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability() < fp8.ADA:
        pytest.skip("needs a GPU with FP8 products")
    layer = nn.Linear(256, 512, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 100, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    found = []
    for product in (fp8.product, fp8.emulated_product):
        monkeypatch.setattr(fp8, "product", product)
        x.grad, out = None, Fp8Linear(layer)(x)
        out.square().sum().backward()
        assert x.grad is not None
        found.append((out.detach().float(), x.grad.float()))
    for given, exact in zip(*found, strict=True):
        assert (given - exact).norm() < 0.01 * exact.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rows", [1, 17, 32, 200])
def test_the_gpus_product_of_few_rows_is_the_emulated_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in generation, one scale for all inside the product; and rows of zeros stay zeros."""
    if torch.cuda.get_device_capability() < fp8.ADA:
        pytest.skip("needs a GPU with FP8 products")
    layer = nn.Linear(256, 512, bias=False, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(rows, 256, device="cuda", dtype=torch.bfloat16)
    x[0] = 0
    found = []
    for product in (fp8.product, fp8.emulated_product):
        monkeypatch.setattr(fp8, "product", product)
        found += [Fp8Linear(layer, trains=trains)(x).float() for trains in (False, True)]
    for given, exact in zip(found[:2], found[2:], strict=True):
        assert not given[0].any() and (given - exact).norm() <= 0.01 * exact.norm()
