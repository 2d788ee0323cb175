"""rsLoRA and DoRA through PEFT: trained, loaded, generated with and merged as the same function."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from conftest import FIXTURES
from dreamtune.canaries.update import relative_update
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.generate.adapter_fold import cast_factors, fold_where_exact
from dreamtune.generate.loading import load_to_generate
from dreamtune.merge import merge_adapter
from dreamtune.model.adapter_format import layer_update
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.model.logits import token_logits
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.train.layers import prepare_layers
from tests.model.test_joined import gradient
from tests.objective.test_loss import reference
from tests.train.test_resuming import Killed, kill_after
from tiny import plan
from tolerance import model_tolerance
from training_runs import Train, adapter, read

pytest_plugins = "training_runs"  # its fixtures
DREAM = FIXTURES / "dream_tiny"
IDS = torch.arange(3, 35)[None]
VARIANTS = ["lora", "rslora", "dora"]


def settings(variant: str) -> LoraSettings:
    return LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"], variant=variant)


def tuned(variant: str, scale: float = 0.1, **how: Any) -> Any:
    """Return a model with an adapter as if it were trained: B, and of DoRA the magnitudes, are moved."""
    model = attach_lora(load_model(DREAM, **({"dtype": "float32"} | how)), settings(variant), 0)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = scale * torch.randn(weight.shape, generator=generator)
        if "magnitude" in name:
            weight.data *= 1 + scale * torch.rand(weight.shape, generator=generator)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return token_logits(model, IDS).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_update_of_a_layer_is_what_peft_merges(variant: str) -> None:
    model, merged = tuned(variant), tuned(variant).merge_and_unload()
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    assert len(layers) > 5
    squares = []
    for name, layer in layers:
        weight = layer.get_base_layer().weight.detach()
        update = layer_update(layer, weight)
        after = merged.get_submodule(name.removeprefix("base_model.model.")).weight
        torch.testing.assert_close(weight + update, after.detach(), rtol=1e-5, atol=1e-6)
        squares.append((float(update.square().sum()), float(weight.square().sum())))
    updates, weights = map(sum, zip(*squares, strict=True))
    assert relative_update(model) == pytest.approx((updates / weights) ** 0.5, rel=1e-5)


def test_rslora_scales_by_the_root_of_the_rank_and_dora_is_another_function() -> None:
    found = {variant: logits(tuned(variant)) for variant in VARIANTS}
    assert not torch.allclose(found["lora"], found["rslora"]) and not torch.allclose(found["lora"], found["dora"])
    layer = next(m for m in tuned("rslora").modules() if isinstance(m, LoraLayer))
    assert layer.scaling["default"] == 8 / 4**0.5


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_adapter_adds_nothing(variant: str, dtype: str, quantization: str) -> None:
    base = logits(load_model(DREAM, dtype=dtype, quantization=quantization))
    model = attach_lora(load_model(DREAM, dtype=dtype, quantization=quantization), settings(variant), 0)
    assert torch.equal(logits(model), base)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.dtype == torch.float32 for weight in trained)


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_the_gradient_in_training_is_that_of_peft(variant: str) -> None:
    exact = reference(tuned(variant))
    model = tuned(variant)
    prepare_layers(model, plan())
    found = gradient(model)
    assert len(found) == len(exact)
    assert (found - exact).norm() / exact.norm() < 1e-4


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_generation_has_the_logits_of_base_plus_adapter(tmp_path: Path, variant: str, quantization: str) -> None:
    model = tuned(variant, quantization=quantization)
    model.save_pretrained(tmp_path / "adapter")
    config = ModelConfig(path=str(DREAM), quantization=quantization, dtype="float32", device="cpu")
    loaded = load_to_generate(config, tmp_path / "adapter")
    assert not [m for m in loaded.modules() if isinstance(m, LoraLayer)], "in float32 it is merged"
    torch.testing.assert_close(logits(loaded), logits(model), **model_tolerance(logits(model), loaded.config))


@pytest.mark.parametrize(("scale", "times"), [(1e-2, 1.1), (0.3, 2.0)], ids=["small", "large"])
def test_in_bfloat16_dora_is_merged_where_it_is_large_and_kept_exact_elsewhere(scale: float, times: float) -> None:
    """What is lost is about what bfloat16 takes of the base; with bfloat16 factors the small one lost 1.2 times it."""
    exact, model = tuned("dora", scale), tuned("dora", scale, dtype="bfloat16")
    folded = fold_where_exact(model)
    cast_factors(model, torch.bfloat16)
    assert bool(folded) == (scale > 0.1)
    base = logits(load_model(DREAM, dtype="float32"))
    rounding = (logits(load_model(DREAM, dtype="bfloat16")) - base).norm()
    assert (logits(model) - logits(exact)).norm() < times * rounding


@pytest.mark.parametrize("weights", ["float32", "unmerged"])
@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_the_export_has_the_logits_of_base_plus_adapter(tmp_path: Path, variant: str, weights: str) -> None:
    model = tuned(variant)
    model.save_pretrained(tmp_path / "adapter")
    config = ModelConfig(path=str(DREAM), quantization="none", dtype="float32", device="cpu")
    merge_adapter(config, tmp_path / "adapter", tmp_path / "out", merge=MergeConfig(weights=weights))
    if weights == "float32":
        exported = load_model(tmp_path / "out" / "merged", dtype="float32")
    else:
        exported = load_model(DREAM, dtype="float32", adapter=tmp_path / "out" / "adapter")
    expected = logits(model)
    torch.testing.assert_close(logits(exported), expected, **model_tolerance(expected, exported.config))


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_a_run_learns_and_goes_on_after_a_kill(train: Train, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    lora = LoraSettings(rank=4, alpha=4, dropout=0.1, target_modules=["all-linear"], variant=variant)
    whole = train("whole", lora=lora, epochs=4)
    gate, config = read(whole, "gate.json"), read(whole, "adapter/adapter_config.json")
    assert gate["passed"], [check for check in gate["checks"] if not check["passed"]]
    assert (config["use_dora"], config["use_rslora"]) == (variant == "dora", variant == "rslora")
    before, *_, after = (value["validation_nll"] for value in read(whole, "training.json")["validation"])
    assert after < before
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(5, patch)
        train("killed", lora=lora, epochs=4, checkpoint_steps=2)
    assert adapter(train("killed", lora=lora, epochs=4, checkpoint_steps=2)) == adapter(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"lora": {"shared_dropout": True}}}, "train.lora.shared_dropout joins products"),
        ({"train": {"products": "fp8"}}, "train.products fp8 keeps no weights"),
        ({"generate": {"products": "nf4"}}, "products nf4 keeps no weights"),
        ({"evaluate": {"decoders": [{"name": "few", "products": "nf4"}]}}, "products nf4 keeps no weights"),
    ],
)
def test_what_dora_cannot_follow_is_one_line(change: dict[str, Any], message: str) -> None:
    least = {"model": {"path": "x"}, "data": {"files": ["x"]}, "train": {"lora": {"variant": "dora"}}}
    train = least["train"] | change.get("train", {})
    train["lora"] = {"variant": "dora"} | change.get("train", {}).get("lora", {})
    with pytest.raises(UserError, match=message):
        parse_config(least | change | {"train": train})
