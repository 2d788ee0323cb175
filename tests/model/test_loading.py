"""The model: parity with the official code, no causal trap, the shift, NF4 and LoRA."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import FIXTURES, ROOT
from dreamtune.generate.loading import load_to_generate
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import attach_lora, count_parameters, empty_model, load, load_model
from dreamtune.model.logits import apply_head, hidden_states, token_logits, unwrap
from dreamtune.model.nf4 import keep_dequantised
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from tolerance import model_tolerance

DREAM, LLADA = FIXTURES / "dream_tiny", FIXTURES / "llada_tiny"
ALL = LoraSettings(rank=4, alpha=8, dropout=0.0, target_modules=["all-linear"])


def assert_close(found: torch.Tensor, expected: torch.Tensor, model: Any) -> None:
    """Assert that logits or hidden rows [B, L, ·] of a float32 model are the same but for rounding."""
    torch.testing.assert_close(found, expected, **model_tolerance(expected, unwrap(model).config))


def reference(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "reference.safetensors")


def tuned(folder: Path = DREAM, quantization: str = "none", dtype: str = "float32", seed: int = 0):
    """Return a model with an adapter that does something (a fresh LoRA's B is zero)."""
    model = attach_lora(load_model(folder, quantization=quantization, dtype=dtype), ALL, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.numeric
@pytest.mark.parametrize("folder", [DREAM, LLADA], ids=["dream", "llada"])
def test_logits_are_the_official_ones(folder: Path) -> None:
    expected = reference(folder)
    model = load_model(folder, dtype="float32")
    with torch.no_grad():
        logits = model(input_ids=expected["input_ids"]).logits
    assert_close(logits, expected["logits"], model)


@pytest.mark.numeric
def test_padded_logits_are_the_official_ones_even_at_the_padding() -> None:
    expected = reference(DREAM)
    model = load_model(DREAM, dtype="float32")
    with torch.no_grad():
        logits = model(input_ids=expected["input_ids"], attention_mask=expected["attention_mask"]).logits
    assert_close(logits, expected["logits_padded"], model)


@pytest.mark.parametrize("folder", [DREAM, LLADA], ids=["dream", "llada"])
@pytest.mark.parametrize("padding", ["none", "2-D mask of ones", "2-D mask"])
@pytest.mark.parametrize("adapter", [False, True])
def test_attention_is_bidirectional(folder: Path, padding: str, adapter: bool) -> None:
    """The layers' `is_causal` flag alone would turn causal as soon as a 2-D padding mask is given."""
    model = tuned(folder) if adapter else load_model(folder, dtype="float32")
    ids = reference(folder)["input_ids"].clone()
    mask = None if padding == "none" else torch.ones_like(ids)
    if padding == "2-D mask":
        mask[1, 20:] = 0
    changed = ids.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 200
    with torch.no_grad():
        before, after = (hidden_states(model, x, mask) for x in (ids, changed))
        raw_before, raw_after = (model(input_ids=x, attention_mask=mask).logits for x in (ids, changed))
    assert ((before - after).abs().amax(-1)[:, :15] > 0).all(), "an earlier position did not see a later token"
    assert ((raw_before - raw_after).abs().amax(-1)[:, :15] > 0).all()


@pytest.mark.numeric
def test_padding_is_hidden() -> None:
    ids = reference(DREAM)["input_ids"]
    model = load_model(DREAM, dtype="float32")
    mask = torch.ones_like(ids)
    mask[:, 20:] = 0
    with torch.no_grad():
        assert_close(token_logits(model, ids, mask)[:, :20], token_logits(model, ids[:, :20]), model)


def test_a_configuration_that_is_causal_makes_the_model_so() -> None:
    """Nothing here asks for that; the planted faults do, and what is causal by mistake must not go unseen."""
    ids = reference(DREAM)["input_ids"]
    model = load_model(DREAM, dtype="float32")
    model.config.is_causal = True
    with torch.no_grad():
        assert_close(hidden_states(model, ids)[:, :10], hidden_states(model, ids[:, :10]), model)


@pytest.mark.numeric
def test_dream_is_shifted_and_llada_is_not() -> None:
    for folder, shifted in ((DREAM, True), (LLADA, False)):
        expected = reference(folder)
        model = load_model(folder, dtype="float32")
        with torch.no_grad():
            logits = token_logits(model, expected["input_ids"])
        raw = expected["logits"]
        rows = torch.cat([raw[:, :1], raw[:, :-1]], dim=1) if shifted else raw
        assert_close(logits, rows, model)


def test_head_on_chosen_rows_is_the_head_on_all() -> None:
    ids = reference(DREAM)["input_ids"]
    model = tuned()
    with torch.no_grad():
        rows = apply_head(model, hidden_states(model, ids)[:, 3:7])
        assert_close(rows, token_logits(model, ids)[:, 3:7], model)


def test_adapter_acts_through_the_wrapper_and_can_be_disabled() -> None:
    ids = reference(DREAM)["input_ids"]
    model = tuned()
    with torch.no_grad():
        changed = token_logits(model, ids)
        with model.disable_adapter():
            base = token_logits(model, ids)
        raw = model(input_ids=ids).logits
    assert_close(base, token_logits(load_model(DREAM, dtype="float32"), ids).detach(), model)
    assert (changed - base).abs().max() > 0.1
    assert_close(changed[:, 1:], raw[:, :-1], model)
    assert facts_of(model.config).family == "dream" and unwrap(model).config.mask_token_id == 500


def test_the_7b_counts() -> None:
    raw = json.loads((FIXTURES / "dream_7b" / "config.json").read_text())
    model = attach_lora(empty_model(raw), LoraSettings(rank=16, target_modules=["q_proj", "v_proj"]), seed=0)
    assert count_parameters(model) == (5_046_272, 7_620_662_784)


def test_nf4_counts_by_logical_shape_and_leaves_the_rest_alone() -> None:
    plain, quantised = (load_model(DREAM, quantization=q, dtype="bfloat16") for q in ("none", "nf4"))
    assert count_parameters(plain)[1] == count_parameters(quantised)[1]
    for name, parameter in quantised.named_parameters():
        linear = name.endswith("_proj.weight")
        assert parameter.dtype == (torch.uint8 if linear else torch.bfloat16), name
    assert quantised.model.layers[0].self_attn.q_proj.weight.quant_state.nested, "not double quantised"
    adapted = attach_lora(quantised, ALL, seed=0)
    assert adapted.base_model.model.lm_head.weight.dtype == torch.bfloat16
    assert unwrap(adapted).model.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("folder", [DREAM, LLADA], ids=["dream", "llada"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dequantised_weights_give_the_same_numbers(folder: Path, dtype: str) -> None:
    ids = reference(folder)["input_ids"]
    model = tuned(folder, "nf4", dtype)
    with torch.no_grad():
        packed = token_logits(model, ids)
        dense = token_logits(keep_dequantised(model), ids)
        exact = token_logits(load_model(folder, dtype=dtype), ids)
    assert torch.equal(packed, dense)
    assert (packed - exact).abs().max() > 0.1, "nothing was quantised"


def test_training_after_an_evaluation_keeps_its_gradients() -> None:
    """bitsandbytes would repack the weights in evaluation mode on some CPUs, and cut the backward pass."""
    ids = reference(DREAM)["input_ids"]
    model = tuned(quantization="nf4", dtype="bfloat16")

    def gradients() -> list[torch.Tensor]:
        model.train()
        model.zero_grad()
        token_logits(model, ids).float().square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    before = gradients()
    model.eval()
    with torch.no_grad():
        token_logits(model, ids)
    for expected, got in zip(before, gradients(), strict=True):
        assert expected.abs().max() > 0
        assert torch.equal(expected, got)


def test_lora_initialisation_is_a_function_of_the_seed() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(torch.seed())
        return [p for p in attach_lora(load_model(DREAM), ALL, seed).parameters() if p.requires_grad]

    a, b, c = weights(3), weights(3), weights(4)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    assert {p.dtype for p in a} == {torch.float32}


def test_lora_leaves_the_random_state_alone() -> None:
    model = load_model(DREAM)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    attach_lora(model, ALL, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_adapter_survives_saving(tmp_path: Path) -> None:
    ids = reference(DREAM)["input_ids"]
    model = tuned(quantization="nf4")
    model.save_pretrained(tmp_path)
    again = load_model(DREAM, quantization="nf4", dtype="float32", adapter=tmp_path)
    assert not any(p.requires_grad for p in again.parameters())
    config = ModelConfig(path=str(DREAM), quantization="nf4", dtype="float32", device="cpu")
    with torch.no_grad():
        assert torch.equal(token_logits(again, ids), token_logits(model, ids))
        assert torch.equal(token_logits(load(config, tmp_path), ids), token_logits(model, ids))
        prepared = token_logits(load_to_generate(config, tmp_path), ids)
    assert_close(prepared, token_logits(model, ids).detach(), model)


@pytest.mark.numeric
def test_packed_documents_can_be_kept_apart() -> None:
    """A boolean [B, 1, L, L] mask and restarting positions give each document the logits it has alone."""
    ids = reference(DREAM)["input_ids"][:1]
    model = load_model(DREAM, dtype="float32")
    mask = torch.zeros(1, 1, 33, 33, dtype=torch.bool)
    mask[..., :14, :14] = mask[..., 14:, 14:] = True
    positions = torch.cat([torch.arange(14), torch.arange(19)])[None]
    with torch.no_grad():
        packed = hidden_states(model, ids, mask, positions)
        assert_close(packed[:, :14], hidden_states(model, ids[:, :14]), model)
        alone = hidden_states(model, ids[:, 14:])
        assert_close(packed[:, 15:], alone[:, 1:], model)


def test_loading_says_nothing() -> None:
    """A user sees no warnings of libraries about what is meant here."""
    code = f"""
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.settings.lora import LoraSettings
attach_lora(load_model({str(DREAM)!r}, quantization="nf4"), LoraSettings(), 0)
load_model({str(LLADA)!r})
"""
    path = str(ROOT / "src")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_is_the_same_model_on_the_gpu(dtype: str) -> None:
    expected = reference(DREAM)
    ids, mask = expected["input_ids"], expected["attention_mask"]
    # The two kernels round a few weights to different 4-bit values, and this random model amplifies differences.
    tolerance = 5e-3 if dtype == "float32" else 0.1
    on_cpu = load_model(DREAM, quantization="nf4", dtype=dtype)
    on_gpu = load_model(DREAM, quantization="nf4", dtype=dtype, device="cuda")
    with torch.no_grad():
        a = on_cpu(input_ids=ids, attention_mask=mask).logits.float()
        b = on_gpu(input_ids=ids.cuda(), attention_mask=mask.cuda()).logits.float().cpu()
        assert (a - b)[mask.bool()].norm() / a[mask.bool()].norm() < tolerance
        packed = token_logits(on_gpu, ids.cuda(), mask.cuda())
        torch.testing.assert_close(token_logits(keep_dequantised(on_gpu), ids.cuda(), mask.cuda()), packed)
    model = attach_lora(load_model(DREAM, quantization="nf4", dtype=dtype, device="cuda"), ALL, seed=0)
    token_logits(model.train(), ids.cuda(), mask.cuda()).float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
