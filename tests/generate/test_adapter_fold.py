"""Adding an adapter into bfloat16 weights: a large update is merged, one that would be rounded away is not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FIXTURES
from dreamtune.generate.adapter_fold import cast_factors, fold_where_exact
from dreamtune.generate.loading import load_to_generate
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.model.logits import hidden_states
from dreamtune.model.nf4 import dequantised_bytes, has_room_for_dense, keep_dequantised
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig

DREAM = FIXTURES / "dream_tiny"
IDS = torch.arange(3, 35)[None]


def tuned(scale: float, only: str = "", quantization: str = "nf4") -> Any:
    """Return a bfloat16 model whose adapter has B of this size, where its name contains `only`; elsewhere 1e-3."""
    settings = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])
    model = attach_lora(load_model(DREAM, quantization=quantization, dtype="bfloat16"), settings, 0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            size = scale if only in name else 1e-3
            parameter.data = size * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def adapted(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


@pytest.mark.parametrize("scale", [1e-3, 0.3], ids=["tiny", "large"])
def test_a_large_update_is_merged_and_a_tiny_one_is_kept(scale: float) -> None:
    model = keep_dequantised(tuned(scale))
    layers = adapted(model)
    with torch.no_grad():
        before = hidden_states(model, IDS).float()
        folded = fold_where_exact(model)
        after = hidden_states(cast_factors(model, torch.bfloat16), IDS).float()
    assert folded == (layers if scale > 0.1 else []) and adapted(model) == ([] if scale > 0.1 else layers)
    assert len(layers) > 5
    assert (after - before).norm() < 0.25 * before.norm()


def test_each_layer_is_judged_by_itself() -> None:
    model = keep_dequantised(tuned(0.3, only="q_proj"))
    folded = fold_where_exact(model)
    assert folded and all("q_proj" in name for name in folded)
    assert adapted(model) and not any("q_proj" in name for name in adapted(model))


def test_the_rounding_of_the_sum_is_what_is_measured() -> None:
    """By hand: of an update of 1/512 beside weights of 1, bfloat16 (8 bits) keeps nothing."""
    model = tuned(0.0, quantization="none")
    layer = model.get_submodule(adapted(model)[0])
    weight, a, b = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    weight.data.fill_(1.0)
    a.data.zero_()
    a.data[0], b.data[:] = 1.0, 0.0
    b.data[:, 0] = 1 / 512 / layer.scaling["default"]
    assert adapted(model)[0] not in fold_where_exact(model)
    b.data[:, 0] = 1 / 2 / layer.scaling["default"]
    name = adapted(model)[0]
    assert name in fold_where_exact(model)
    weight = model.get_submodule(name).weight
    assert weight.dtype == torch.bfloat16 and (weight == 1.5).all()


@pytest.mark.parametrize("scale", [1e-3, 0.3], ids=["tiny", "large"])
def test_loading_to_generate_in_bfloat16(scale: float, tmp_path: Path) -> None:
    model = tuned(scale)
    model.save_pretrained(tmp_path)
    config = ModelConfig(path=str(DREAM), quantization="nf4", dtype="bfloat16", device="cpu")
    prepared = load_to_generate(config, tmp_path)
    assert bool(adapted(prepared)) == (scale < 0.1)
    kept = {p.dtype for name, p in prepared.named_parameters() if "lora_" in name}
    assert kept == ({torch.bfloat16} if scale < 0.1 else set())
    with torch.no_grad():
        expected, found = hidden_states(model, IDS).float(), hidden_states(prepared, IDS).float()
    assert (found - expected).norm() < 0.25 * expected.norm()


def test_a_gpu_must_keep_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the device: 4 GiB are left, to the byte."""
    model = load_model(DREAM, quantization="nf4", dtype="bfloat16")
    needed = 4 * 2**30 + dequantised_bytes(model, torch.bfloat16)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        assert has_room_for_dense(model, 1, torch.bfloat16) == fits


def test_dequantised_bytes_are_those_that_are_then_held() -> None:
    model = load_model(DREAM, quantization="nf4", dtype="bfloat16")
    predicted = dequantised_bytes(model, torch.bfloat16)
    keep_dequantised(model)
    names = [name for name, _ in model.named_parameters() if "_proj.weight" in name]
    assert predicted == sum(model.get_parameter(name).nbytes for name in names) > 0
