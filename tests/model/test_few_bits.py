"""Weights in fewer bits: the numbers that are multiplied, the adapter beside them, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn

from conftest import FIXTURES
from dreamtune.errors import UserError
from dreamtune.generate.loading import load_to_generate
from dreamtune.generate.sampler import Request
from dreamtune.model.few_bits import check_products, nf4_parts, unpacked, use_few_bits
from dreamtune.model.fp8 import Fp8Linear, rounded_rows
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.model.logits import hidden_states, unwrap
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from tests.generate.test_block_cache import same
from tests.generate.test_sampler import answers
from tolerance import model_tolerance

DREAM = FIXTURES / "dream_tiny"
IDS = torch.arange(3, 35)[None]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that changes the output."""
    settings = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])
    model = attach_lora(load_model(DREAM, quantization="nf4", dtype="float32"), settings, 0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path)
    return tmp_path


def config(quantization: str = "nf4", dtype: str = "float32") -> ModelConfig:
    return ModelConfig(path=str(DREAM), quantization=quantization, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def first_layer(model: Any) -> nn.Module:
    layer: nn.Module = unwrap(model).model.layers[0].mlp.up_proj
    return getattr(layer, "base_layer", layer)


def test_unpacked_codes_scales_and_table_are_the_weights_that_bitsandbytes_dequantises() -> None:
    layer: Any = first_layer(load_model(DREAM, quantization="nf4"))
    codes, absmax, table = unpacked(layer)
    both = torch.stack([codes >> 4, codes & 15], dim=-1).flatten(1).long()  # [out, in]: the high half comes first
    weight = (table[both] * absmax.repeat_interleave(64, dim=1)).to(torch.bfloat16)
    assert torch.equal(weight, dequantize_4bit(layer.weight.data, layer.weight.quant_state))


@torch.no_grad()
def test_nf4_products_are_those_of_the_dequantised_weights_with_the_adapter_beside_them(adapter: Path) -> None:
    """On a CPU. Rounding is all that differs from the merged weights of `bf16`, and nothing without an adapter."""
    assert isinstance(first_layer(load_to_generate(config(), adapter, "nf4")), Linear4bit)
    for trained in (None, adapter):
        plain = hidden_states(load_to_generate(config(), trained), IDS)
        model = load_to_generate(config(), trained, "nf4")
        tolerance = model_tolerance(plain, unwrap(model).config)
        torch.testing.assert_close(hidden_states(model, IDS), plain, **tolerance)


@torch.no_grad()
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_fp8_layers_multiply_the_rounded_rows_and_weights(adapter: Path, quantization: str) -> None:
    model = load_to_generate(config(quantization), adapter, "fp8")
    layer = first_layer(model)
    assert isinstance(layer, Fp8Linear)
    assert any("lora_A" in name for name, _ in model.named_parameters())
    x = torch.randn(3, 5, layer.in_features, generator=torch.Generator().manual_seed(0))
    rows, scales = rounded_rows(x.flatten(0, 1))
    weight = layer.weight.double() * layer.out_scales
    expected = (rows.double() * scales) @ weight.T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(layer(x).flatten(0, 1).double(), expected, rtol=1e-4, atol=1e-5)
    original: Any = first_layer(load_model(DREAM, quantization="none", dtype="float32"))
    if quantization == "none":
        assert 0.001 < ((weight - original.weight).norm() / original.weight.norm()).item() < 0.05
    assert isinstance(unwrap(model).lm_head, nn.Linear)


def test_a_row_in_fp8_does_not_depend_on_the_rows_beside_it() -> None:
    layer = Fp8Linear(nn.Linear(64, 32), trains=False)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    loud = torch.cat([x, 1000 * x])
    assert torch.equal(layer(x), layer(loud)[:16])


@pytest.mark.parametrize("products", ["nf4", "fp8"])
def test_an_answer_does_not_depend_on_its_batch(adapter: Path, products: str) -> None:
    model = load_to_generate(config(), adapter, products)
    requests = [Request(list(range(3, 3 + n)), n) for n in (4, 9, 20, 21)]
    settings = GenerateConfig(max_new_tokens=10, block_length=5, refresh="block")
    alone = [answers(model, [request], settings)[0] for request in requests]
    together = answers(model, requests, settings.model_copy(update={"batch_size": 3}))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_products_that_model_or_device_lack_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(UserError, match=r"model.quantization is none; set it to nf4"):
        check_products("nf4", config("none"), cpu)
    with pytest.raises(UserError, match=r"needs model.dtype bfloat16 on a GPU, not float32"):
        check_products("nf4", config(), gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(UserError, match=r"needs a GPU with FP8 .* not A100"):
        check_products("fp8", config(dtype="bfloat16"), gpu)
    check_products("nf4", config(dtype="bfloat16"), gpu)
    model = load_model(DREAM, dtype="float32")
    model.model.layers[0].mlp.up_proj = nn.Linear(40, 32)
    with pytest.raises(UserError, match=r"needs multiples of 16, and 0.mlp.up_proj has 32 x 40"):
        use_few_bits(model, "fp8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
@pytest.mark.parametrize(("rows", "out", "into"), [(1, 512, 3584), (33, 3584, 3584), (64, 3584, 18944), (33, 200, 192)])
def test_the_kernel_multiplies_the_dequantised_weights(rows: int, out: int, into: int) -> None:
    torch.manual_seed(0)
    layer = Linear4bit(into, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True)
    layer.weight.data = torch.randn(out, into, dtype=torch.bfloat16)
    packed: Any = layer.to("cuda").weight
    x = torch.randn(rows, into, dtype=torch.bfloat16, device="cuda")
    found = nf4_parts(x.unflatten(-1, (-1, 2)).movedim(-1, 0).contiguous(), *unpacked(layer)).sum(0)
    expected = x.double() @ dequantize_4bit(packed.data, packed.quant_state).double().T
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * into**0.5)
