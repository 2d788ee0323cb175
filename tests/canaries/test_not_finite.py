"""NaN and infinity in the base, in the adapter or behind a layer: every stage ends with one line that names the place.

The faults are planted in the file, where loading finds them before any pass, and in the loaded model, where the first
number that is not finite does.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dreamtune.errors import UserError
from dreamtune.evaluate import likelihood
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import read_examples
from dreamtune.generate.loading import load_to_generate
from dreamtune.generate.sampler import generate
from dreamtune.model.loading import load, load_model
from dreamtune.model.nonfinite import FINITE, check_files, check_weights, first_nonfinite, nonfinite_weight
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.train import run as runs
from dreamtune.train import steps as training
from tiny import MASK
from training_runs import Train

pytest_plugins = "training_runs"  # its fixtures

WEIGHT = "model.layers.1.mlp.up_proj.weight"
BAD = [float("nan"), float("inf"), float("-inf")]


def damaged(base: ModelConfig, folder: Path, name: str, value: float, **changes: Any) -> ModelConfig:
    """Return a copy of the base with one number of one tensor replaced in its file."""
    shutil.copytree(base.path, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][1, 3] = value
    save_file(tensors, folder / "model.safetensors")
    return base.model_copy(update={"path": str(folder), **changes})


def poison(model: Any, name: str = WEIGHT, value: float = float("nan")) -> Any:
    """Put NaN into a weight of a loaded model, and return the model."""
    model.get_parameter(name).data[1, 3] = value
    return model


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"quantization": "nf4", "dtype": "bfloat16"}])
@pytest.mark.parametrize("name", [WEIGHT, "model.embed_tokens.weight", "lm_head.weight"])
def test_a_file_that_is_damaged(
    base: ModelConfig, tmp_path: Path, value: float, changes: dict[str, Any], name: str
) -> None:
    """Also where 4-bit codes would hide it; every stage loads its model in one of these two ways."""
    config = damaged(base, tmp_path / "base", name, value, **changes)
    with pytest.raises(UserError, match=rf"the weight {name} .*is not finite.*fetch or make the model again"):
        check_weights(load(config))
    with pytest.raises(UserError, match=f"the weight {name} .*is not finite"):
        load_to_generate(config)


def test_packed_weights_whose_scales_are_damaged(base: ModelConfig, tmp_path: Path) -> None:
    """What quantisation on a CPU makes of infinity, if nobody looks at the file."""
    model = load(base.model_copy(update={"quantization": "nf4", "dtype": "bfloat16"}))
    assert nonfinite_weight(model) is None
    model.get_parameter(WEIGHT).quant_state.offset.fill_(float("nan"))
    assert nonfinite_weight(model) == WEIGHT
    check_files([Path(base.path) / "model.safetensors"], "cpu")


def test_an_adapter_that_is_damaged(train: Train, base: ModelConfig) -> None:
    out = train(max_steps=1, validation_rows=0)
    file = out / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "layers.1.self_attn.v_proj.lora_B" in name)
    tensors[name][0, 0] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    says = r"the weight model\.layers\.1\.self_attn\.v_proj\.lora_B\.weight is not finite.*train the adapter again"
    with pytest.raises(UserError, match=says):
        load_to_generate(base, out / "adapter")
    with pytest.raises(UserError, match=says):
        list(likelihood.models_of(base, out / "adapter"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.8, "top_p": 0.9},
        {"order": "maskgit_plus"},
        {"order": "topk_margin", "temperature": 0.5, "ranking": "official"},
        {"order": "origin"},
        {"block_length": 4, "refresh": "block", "threshold": 0.5},
    ],
    ids=["greedy", "sampled", "maskgit_plus", "topk_margin", "origin", "blocks"],
)
@pytest.mark.parametrize("name", [WEIGHT, "lm_head.weight", "model.embed_tokens.weight"])
def test_generation_stops(base: ModelConfig, options: dict[str, Any], name: str) -> None:
    """Before, the answer was empty and the exit status 0."""
    settings = GenerateConfig(max_new_tokens=8, steps=4, **options)
    model = load(base)
    assert len(generate(model, [[1, 2, 3], [1, 4]], settings)) == 2
    with pytest.raises(UserError, match=f"scores are not finite.*the weight {name} holds NaN"):
        generate(poison(model, name), [[1, 2, 3], [1, 4]], settings)


def overflow(model: Any, layer: int = 1) -> Any:
    """Let a layer's output overflow, though every weight is finite."""
    for projection in ("gate_proj", "up_proj"):
        model.get_parameter(f"model.layers.{layer}.mlp.{projection}.weight").data.fill_(1e30)
    return model


def test_the_layer_is_named_where_every_weight_is_finite(base: ModelConfig, shards: Path) -> None:
    """float32 overflows between gate and up projection, so that the next layer is the first with infinity in it."""
    model, where = overflow(load(base)), r"NaN or infinity first appears in the output of model\.layers\.1\.mlp"
    with pytest.raises(UserError, match=where):
        generate(model, [[1, 2, 3]], GenerateConfig(max_new_tokens=4))
    with pytest.raises(UserError, match=f"the likelihood is not finite: {where}"):
        heldout_nll(model, read_examples(shards, "validation"), LikelihoodConfig(draws=1), MASK)
    assert first_nonfinite(load(base), lambda: load(base)(input_ids=torch.arange(4)[None])) == FINITE
    assert not any(module._forward_hooks for module in model.modules())


def test_the_likelihood_stops(base: ModelConfig, shards: Path) -> None:
    examples = read_examples(shards, "validation")
    for name in (WEIGHT, "lm_head.weight"):
        with pytest.raises(UserError, match=f"the likelihood is not finite: the weight {name} holds NaN"):
            heldout_nll(poison(load(base), name), examples, LikelihoodConfig(draws=1), MASK)


@pytest.mark.parametrize("finetuning", ["lora", "full"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (poison, f"the weight {WEIGHT} holds NaN or infinity"),
        (overflow, r"NaN or infinity first appears in the output of model\.layers\.1\.mlp"),
    ],
)
def test_training_stops_before_its_first_step(
    train: Train, monkeypatch: pytest.MonkeyPatch, finetuning: str, fault: Callable[[nn.Module], Any], says: str
) -> None:
    """Whatever `on_failed_gate` says; nothing is written that a later run could take for a result."""
    monkeypatch.setattr(runs, "check_weights", lambda model: fault(model))
    with pytest.raises(UserError, match=rf"loss_finite_first_window: the loss is not finite; .*{says}"):
        train(finetuning=finetuning, on_failed_gate="continue")


def test_training_names_the_weight_that_a_step_broke(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = training.learning_rate
    monkeypatch.setattr(training, "learning_rate", lambda step, *given: 1e30 if step == 2 else rate(step, *given))
    with pytest.raises(
        UserError, match=r"step 3: the loss is .*; NaN or infinity first appears in the output of model"
    ):
        train(validation_rows=0)
    monkeypatch.setattr(
        training, "learning_rate", lambda step, *given: float("inf") if step == 2 else rate(step, *given)
    )
    with pytest.raises(
        UserError, match=r"step 3: the loss is nan.*; the weight model\.layers\.0\..*lora_.\.weight holds NaN"
    ):
        train("again", validation_rows=0)


def test_a_gradient_that_is_not_finite_is_named(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    original = runs.LoraFinetuning

    def faulty(*given: Any) -> Any:
        made = original(*given)
        made.trained["model.layers.0.mlp.up_proj.lora_B.weight"].register_hook(lambda g: g * torch.nan)
        return made

    monkeypatch.setattr(runs, "LoraFinetuning", faulty)
    says = r"step 1: the loss is \d.* norm nan; .*the gradient of model\.layers\.0\.mlp\.up_proj\.lora_B\.weight is not"
    with pytest.raises(UserError, match=says):
        train(validation_rows=0)


def test_a_whole_model_as_the_agreed_names_load_it(base: ModelConfig) -> None:
    assert check_weights(load_model(base.path, dtype="float32")) is not None
