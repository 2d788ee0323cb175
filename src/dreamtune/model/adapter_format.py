"""The PEFT adapter folder: adapter_config.json and adapter_model.safetensors."""

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
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
        UserError: one of the two files is missing, the config is no JSON object, or the weights are pickled.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds no {CONFIG}; expected the adapter folder of a finished training")
    if not (folder / ADAPTER_WEIGHTS).exists():
        if (folder / PICKLE).exists():
            raise UserError(
                f"{folder} has a pickled adapter ({PICKLE}), which can run code; convert it to {ADAPTER_WEIGHTS}"
            )
        raise UserError(f"{folder} holds no {ADAPTER_WEIGHTS}")
    return read_json_object(folder / CONFIG)


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
