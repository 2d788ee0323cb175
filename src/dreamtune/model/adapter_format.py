"""The PEFT adapter: its folder (adapter_config.json, adapter_model.safetensors), and what it adds to a weight."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open

from dreamtune.errors import UserError
from dreamtune.inputs.special_tokens import read_json_object
from dreamtune.model.new_row import KEY

CONFIG, ADAPTER_WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


def trained_weights(training: Path) -> Path:
    """Return a finished training's folder of weights: `adapter` in it or, after full fine-tuning, `model`."""
    return training / "model" if (training / "model").is_dir() else training / "adapter"


def is_checkpoint(trained: Path) -> bool:
    """Return whether a folder of trained weights is a whole checkpoint (full fine-tuning), and not an adapter."""
    return (trained / "config.json").exists()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the content of adapter_config.json, once the folder is known to hold the weights as safetensors too.

    Raises:
        UserError: one of the two files is missing, the config is no JSON object or names its base by something else
            than text, or the weights are pickled.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no {CONFIG}; expected the adapter folder of a finished training")
    if not (folder / ADAPTER_WEIGHTS).exists():
        if (folder / PICKLE).exists():
            raise UserError(
                f"{folder} has a pickled adapter ({PICKLE}), which can run code; convert it to {ADAPTER_WEIGHTS}"
            )
        raise UserError(f"{folder} holds no {ADAPTER_WEIGHTS}")
    config = read_json_object(folder / CONFIG)
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(config.get(name), str | None):
            raise UserError(f"{folder / CONFIG} has {name} = {config[name]!r}; expected text or null")
    return config


def check_loaded(model: PeftModel, folder: Path) -> None:
    """Check that the adapter's file holds a tensor for each of the model's adapter weights, and no other.

    PEFT would only warn, and leave the weights that are missing as they were initialised.

    Args:
        model: base with the adapter that was just loaded from `folder`.

    Raises:
        UserError: the names differ.
    """
    expected = set(get_peft_model_state_dict(model))
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        given = set(file.keys()) - {KEY}
    if given != expected:
        wrong = sorted(given ^ expected)
        where = "only in the file" if wrong[0] in given else "missing from the file"
        raise UserError(
            f"the adapter in {folder} does not fit the model: {len(wrong)} tensors differ, {wrong[0]} is {where}"
        )


def uses_dora(model: Any) -> bool:
    """Return whether a model has a DoRA adapter."""
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return any(config.use_dora for config in configs.values())


@torch.no_grad()
def set_magnitudes(model: Any) -> None:
    """Set DoRA's magnitudes to the norms that its layers compute in float32, in place.

    PEFT takes them in the base's type. In bfloat16 their rounding would scale each row by up to 0.4 % before the first
    step, and the adapter would not start from the base.
    """
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        for magnitude in layer.lora_magnitude_vector.values():
            weight = dequantize_module_weight(layer.get_base_layer()).float()
            magnitude.weight.data = torch.linalg.norm(weight, dim=1)


def layer_update(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """Return what a layer's only adapter adds to its frozen weight, [out, in] float32.

    Args:
        layer: a LoraLayer of PEFT; its scaling is alpha / r, or alpha / sqrt(r) of rsLoRA.
        weight: the frozen weight [out, in], as the layer multiplies with it.
    """
    (adapter,) = layer.active_adapters
    a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
    update = float(layer.scaling[adapter]) * (b @ a)
    if adapter not in layer.lora_magnitude_vector:
        return update
    return dora_update(weight.float(), update, layer.lora_magnitude_vector[adapter].weight.float())


def dora_update(weight: torch.Tensor, update: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Return what DoRA (arXiv 2402.09353, eq. 5) adds to a weight: m · (W + D) / ‖W + D‖ − W, norms by row.

    A row of the length 5 whose magnitude is 10 is doubled:

    >>> dora_update(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([10.0])).tolist()
    [[3.0, 4.0]]

    Args:
        weight: W, [out, in] float32.
        update: D, [out, in], the scaled product of the factors.
        magnitude: m, [out].
    """
    moved = weight + update
    return magnitude[:, None] * moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True) - weight
