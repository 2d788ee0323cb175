"""Merge an adapter into its base model: a checkpoint in the official format, which the official code loads.

    OUT/merged/     the base model's own files (config.json, tokenizer, index, Python files) byte for byte, and its
                    safetensors, file by file under their own names and keys, with the adapter added
    OUT/merge.json  counts, and the held-out NLL of the merged model beside that of base + adapter as evaluated

The adapter was trained on weights rounded to 4 bits and is added here to the unrounded weights: the two NLLs show how
much that changes. Only one file of weights is in memory at a time.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dreamtune.device.gpus import resolve_device, take_gpu
from dreamtune.device.memory import out_of_memory
from dreamtune.errors import UserError
from dreamtune.evaluate.draws import nats_per_token
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import read_examples
from dreamtune.files import write_json
from dreamtune.inputs.hub import model_folder
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS, read_adapter_config
from dreamtune.model.loading import load, load_model
from dreamtune.model.official_format import family_of, native_key, read_config
from dreamtune.model.official_writer import rewrite
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta

# Keys of adapter_config.json and the values with which the update is exactly alpha / r * B A; a key may be absent.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
    "init_lora_weights": (True, "gaussian"),
}
PREFIX = "base_model.model."  # PEFT's, before the names of modules


def merge_adapter(
    model: ModelConfig,
    adapter: Path,
    out: Path,
    shards: Path | None = None,
    likelihood: LikelihoodConfig | None = None,
) -> dict[str, Any]:
    """Write OUT/merged and OUT/merge.json; return the content of merge.json.

    Args:
        model: the base model, and the quantisation with which base + adapter was evaluated.
        adapter: PEFT folder of a plain LoRA.
        shards: output of prepare_shards, on whose test split both NLLs are measured; None measures neither.
        likelihood: settings of that measurement; None measures neither.

    Raises:
        UserError: the adapter is no plain LoRA or does not fit the base, or the GPU's memory does not suffice.
    """
    base = model_folder(model.path, model.revision)
    updates = _read_updates(adapter)
    modules = len(updates)
    family, merged = family_of(read_config(base), model.family), out / "merged"
    files = rewrite(base, merged, lambda key, weight: _merged(weight, native_key(key, family), updates))
    if updates:
        raise UserError(f"the adapter in {adapter} does not fit {model.path}, which has no {sorted(updates)[0]}")
    summary: dict[str, Any] = {"format": 1, "files": files, "merged_weights": modules}
    if shards is not None and likelihood is not None:
        with out_of_memory("lower evaluate.likelihood.batch_tokens, or set model.device to cpu"):
            summary["nll"] = _compare(model, adapter, merged, shards, likelihood)
    write_json(out / "merge.json", summary)
    return summary


def _read_updates(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors A [r, in] and (alpha / r) B [out, r] of each adapted weight, by the weight's native name."""
    config = read_adapter_config(adapter)
    for key, allowed in PLAIN.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UserError(f"the adapter in {adapter} has {key} = {config[key]!r}; only plain LoRA can be merged")
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118, not a mapping
    scale = config["lora_alpha"] / config["r"]
    updates = {}
    for key, a in tensors.items():
        module, factor, _ = key.removeprefix(PREFIX).rpartition(".lora_A.weight")
        if factor:
            updates[f"{module}.weight"] = (a, scale * tensors[f"{PREFIX}{module}.lora_B.weight"])
    if 2 * len(updates) != len(tensors):
        raise UserError(
            f"the adapter in {adapter} has tensors besides lora_A and lora_B; only plain LoRA can be merged"
        )
    return updates


def _merged(weight: torch.Tensor, name: str, updates: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Return weight + B A in the weight's type, or the weight if `updates` lacks it; remove the factors from there."""
    if name not in updates:
        return weight
    a, b = updates.pop(name)
    if (b.shape[0], a.shape[1]) != weight.shape:
        raise UserError(f"the adapter's {name} is {b.shape[0]} x {a.shape[1]}, the base's {tuple(weight.shape)}")
    return (weight.float() + b @ a).to(weight.dtype)


def _compare(
    model: ModelConfig, adapter: Path, merged: Path, shards: Path, likelihood: LikelihoodConfig
) -> dict[str, Any]:
    """Return the held-out NLL, in nats per token, of the merged model and of base + adapter, on the same masks."""
    examples, mask_id = read_examples(shards, "test", likelihood.max_rows), read_meta(shards)["tokenizer"]["mask_id"]
    if not examples:
        return {"rows": 0, "merged": None, "evaluated": None}
    device = resolve_device(model.device)
    take_gpu(device)

    def nll(measured: Any) -> float:
        return nats_per_token(heldout_nll(measured, examples, likelihood, mask_id))

    return {
        "rows": len(examples),
        "evaluated": nll(load(model, adapter)),
        "evaluated_quantization": model.quantization,
        "merged": nll(load_model(merged, dtype=model.dtype, device=device, family=model.family)),
        "dtype": model.dtype,
    }
