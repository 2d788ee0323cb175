"""Export an adapter: merged into its base model, a checkpoint that the official code loads, or by itself.

    OUT/merged/     the base model's own files (config.json, tokenizer, index, Python files) byte for byte, and its
                    safetensors, file by file under their own names and keys, with the adapter added; in float32 if the
                    settings say so, which config.json and index then say, too; a mask token that the settings chose
                    stands in config.json and tokenizer_config.json
    OUT/adapter/    in its place, if the settings say so: the adapter under the official code's names, for PEFT
    OUT/merge.json  counts; what rounding took of the update, by layer; and the held-out NLL of what was written beside
                    that of base + adapter as evaluated

The adapter was trained on weights rounded to 4 bits and is added here to the unrounded weights: the two NLLs show how
much that changes. A merged weight is rounded to its own type, which can take most of a small update (see
`model.rounding`): that is measured, and said where it is much. Only one file of weights is in memory at a time.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dreamtune.device.gpus import resolve_device, take_gpu
from dreamtune.device.memory import out_of_memory
from dreamtune.errors import UserError
from dreamtune.evaluate.draws import nats_per_token
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import read_examples
from dreamtune.files import read_json, usual_mode, write_json
from dreamtune.inputs.checkpoint_format import family_of, native_key, read_config
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.weight_files import INDEX, weight_files
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS, CONFIG, dora_update, read_adapter_config
from dreamtune.model.loading import load
from dreamtune.model.new_row import EMBEDDINGS, INDICES, KEY
from dreamtune.model.nonfinite import plain_name, refuse_nonfinite
from dreamtune.model.official_writer import declare_mask, rewrite
from dreamtune.model.rounding import TOLERANCE, Rounding, add_rounded, total_rounding
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta

# Keys of adapter_config.json and the values with which the update follows from the two factors, and of DoRA from the
# magnitudes besides; a key may be absent.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, True),
    "use_rslora": (False, True),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
    "init_lora_weights": (True, "gaussian"),
}
EMBEDDING_WEIGHT = f"model.{EMBEDDINGS}.weight"
PREFIX = "base_model.model."  # PEFT's, before the names of modules
MAGNITUDE = "lora_magnitude_vector"
Updates = dict[str, tuple[torch.Tensor, ...]]


def merge_adapter(
    model: ModelConfig,
    adapter: Path,
    out: Path,
    shards: Path | None = None,
    likelihood: LikelihoodConfig | None = None,
    merge: MergeConfig | None = None,
) -> dict[str, Any]:
    """Write OUT/merged or OUT/adapter, and OUT/merge.json (see the module's docstring).

    Args:
        model: the base model, and the quantisation with which base + adapter was evaluated.
        adapter: PEFT folder of a LoRA, rsLoRA or DoRA.
        shards: output of prepare_shards, on whose test split both NLLs are measured; None measures neither.
        likelihood: settings of that measurement; None measures neither.
        merge: in which form the adapter is written; None merges it into weights of the base's own type.

    Returns:
        the content of merge.json without the layers, for the manifest.

    Raises:
        UserError: the adapter is of another kind or does not fit the base, one of them holds NaN or infinity, or the
            GPU's memory does not suffice.
    """
    base, weights = model_folder(model.path, model.revision), (merge or MergeConfig()).weights
    family, updates = family_of(read_config(base), model.family, base), _read_updates(adapter)
    summary: dict[str, Any] = {"format": 1, "weights": weights}
    if weights == "unmerged":
        exported: tuple[ModelConfig, Path | None] = model.model_copy(update={"quantization": "none"}), adapter
        summary |= _write_adapter(base, family, model, adapter, out / "adapter", updates)
    else:
        float32 = {"dtype": "float32"} if weights == "float32" else {}
        whole = {"path": str(out / "merged"), "revision": None, "quantization": "none", "mask_token": None}
        exported = model.model_copy(update=whole | float32), None
        summary |= _write_merged(base, family, out / "merged", updates, weights == "float32")
        declare_mask(out / "merged", base, model.mask_token)
    if updates:
        raise UserError(f"the adapter in {adapter} does not fit {model.path}, which has no {sorted(updates)[0]}")
    if shards is not None and likelihood is not None:
        with out_of_memory("lower evaluate.likelihood.batch_tokens, or set model.device to cpu"):
            summary["nll"] = _compare((model, adapter), exported, shards, likelihood)
    write_json(out / "merge.json", summary)
    if rounding := summary.get("rounding"):
        _warn(rounding)
        summary["rounding"] = {name: rounding[name] for name in ("lost", "rms")}
    return summary


def _read_updates(adapter: Path) -> Updates:
    """Return the factors A [r, in] and s B [out, r] of each adapted weight, by the weight's native name.

    The scale s is alpha / r, or alpha / sqrt(r) of rsLoRA. DoRA has the magnitudes [out] besides. The embeddings, where
    a new mask token has a row in them, have the row's number [1] and its numbers [1, D] instead.
    """
    config = read_adapter_config(adapter)
    for key, allowed in PLAIN.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"the adapter in {adapter} has {key} = {config[key]!r}; only LoRA, rsLoRA and DoRA can be merged"
            )
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118, not a mapping
    for key, tensor in tensors.items():
        refuse_nonfinite(plain_name(key), tensor, adapter, "train the adapter again")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    updates: Updates = {}
    row = tensors.pop(KEY, None)
    if row is not None:  # of a new mask token: it replaces the base's
        updates[EMBEDDING_WEIGHT] = (torch.tensor(config[INDICES][EMBEDDINGS]), row)
    for key, a in tensors.items():
        module, factor, _ = key.removeprefix(PREFIX).rpartition(".lora_A.weight")
        if factor:
            others = ["lora_B.weight", *([MAGNITUDE] if config.get("use_dora") else [])]
            found = [tensors.get(f"{PREFIX}{module}.{name}") for name in others]
            b, *magnitude = [tensor for tensor in found if tensor is not None] or [a]
            updates[f"{module}.weight"] = (a, scale * b, *magnitude)
    if (3 if config.get("use_dora") else 2) * (len(updates) - (row is not None)) != len(tensors):
        raise UserError(
            f"the adapter in {adapter} has tensors besides lora_A and lora_B (and DoRA's magnitudes), or lacks some of "
            "them, so it cannot be merged"
        )
    return updates


def _write_merged(base: Path, family: str, target: Path, updates: Updates, float32: bool) -> dict[str, Any]:
    """Write the base with the updates added; return counts and rounding. `updates` keeps what did not fit."""
    roundings: dict[str, Rounding] = {}
    size = 0

    def change(key: str, weight: torch.Tensor) -> torch.Tensor:
        nonlocal size
        refuse_nonfinite(key, weight, base, "fetch or make the model again")
        name, weight = native_key(key, family), weight.float() if float32 and weight.is_floating_point() else weight
        if name == EMBEDDING_WEIGHT and name in updates:
            rows, values = updates.pop(name)
            weight = weight.index_copy(0, rows, values.to(weight.dtype))
        elif name in updates:
            a, b, *magnitude = updates.pop(name)
            _check_shape(name, a, b, tuple(weight.shape))
            update = dora_update(weight.float(), b @ a, *magnitude) if magnitude else b @ a
            weight, roundings[name] = add_rounded(weight, update)
        size += weight.nbytes
        return weight

    files = rewrite(base, target, change)
    if updates:
        return {}
    if float32:
        _declare_float32(target, size)
    layers = [{"weight": name, "rms": found.rms, "lost": found.lost} for name, found in sorted(roundings.items())]
    whole = total_rounding(list(roundings.values()))
    rounding = {"lost": whole.lost, "rms": whole.rms, "layers": layers}
    return {"files": files, "merged_weights": len(layers), "rounding": rounding}


def _check_shape(name: str, a: torch.Tensor, b: torch.Tensor, shape: tuple[int, ...]) -> None:
    if (b.shape[0], a.shape[1]) != shape:
        raise UserError(f"the adapter's {name} is {b.shape[0]} x {a.shape[1]}, the base's {shape}")


def _declare_float32(folder: Path, size: int) -> None:
    """Make config.json say float32, by which the official code loads the weights, and the index their bytes."""
    config = read_json(folder / "config.json")
    named = [key for key in ("torch_dtype", "dtype") if key in config] or ["torch_dtype"]
    write_json(folder / "config.json", config | dict.fromkeys(named, "float32"))
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        write_json(folder / INDEX, index | {"metadata": index.get("metadata", {}) | {"total_size": size}})


def _write_adapter(
    base: Path,
    family: str,
    model: ModelConfig,
    adapter: Path,
    target: Path,
    updates: Updates,
) -> dict[str, Any]:
    """Write the adapter under the names that the official code gives its modules; `updates` keeps what did not fit."""
    official = {}  # by a module's native name, its name in the official code
    for file in weight_files(base):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118, not a mapping
                if (name := native_key(key, family)) in updates:
                    factors = updates.pop(name)
                    if name != EMBEDDING_WEIGHT:
                        _check_shape(name, factors[0], factors[1], tuple(opened.get_slice(key).get_shape()))
                    official[name.removesuffix(".weight")] = key.removesuffix(".weight")
    if updates:
        return {}
    tensors = {}
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as opened:
        for key in opened.keys():  # noqa: SIM118
            module, between, factor = key.removeprefix(PREFIX).partition(".token_" if key == KEY else ".lora_")
            tensors[f"{PREFIX}{official[module]}{between}{factor}"] = opened.get_tensor(key)
    config = read_adapter_config(adapter)
    config |= {"base_model_name_or_path": model.path, "revision": model.revision}
    embeddings = official.pop(EMBEDDING_WEIGHT.removesuffix(".weight"), None)
    if embeddings is not None:
        config[INDICES] = {embeddings.rpartition(".")[2]: config[INDICES][EMBEDDINGS]}
    if set(official) != set(official.values()):  # a name's last part would match other modules of the official code
        config["target_modules"] = sorted(official.values())
    target.mkdir(parents=True)
    with usual_mode(target / ADAPTER_WEIGHTS) as file:
        save_file(tensors, file, {"format": "pt"})
    write_json(target / CONFIG, config)
    return {"files": 1, "merged_weights": 0}


def _warn(rounding: dict[str, Any]) -> None:
    """Say on the terminal, and so in the job's log, how much of the update rounding took, if it is much."""
    if rounding["lost"] > TOLERANCE:
        worst = max(rounding["layers"], key=lambda layer: float(layer["lost"]))
        print(
            f"rounding took {rounding['lost']:.0%} of the adapter's update, whose numbers are {rounding['rms']:.1e} on "
            f"average (rms), and at worst {worst['lost']:.0%}, in {worst['weight']}: the merged model is not the one "
            "that was evaluated; set merge.weights to float32 or unmerged to keep the update",
            file=sys.stderr,
        )


def _compare(
    evaluated: tuple[ModelConfig, Path | None],
    exported: tuple[ModelConfig, Path | None],
    shards: Path,
    likelihood: LikelihoodConfig,
) -> dict[str, Any]:
    """Return the held-out NLL, in nats per token, of base + adapter and of what was written, on the same masks.

    Args:
        evaluated, exported: model and adapter, None for a checkpoint that holds it.
    """
    examples = read_examples(shards, "test", likelihood.max_rows)
    mask_id = None if evaluated[0].causal else read_meta(shards)["tokenizer"]["mask_id"]
    if not examples:
        return {"rows": 0, "merged": None, "evaluated": None}
    take_gpu(resolve_device(evaluated[0].device))

    def nll(config: ModelConfig, adapter: Path | None) -> float:
        return nats_per_token(heldout_nll(load(config, adapter), examples, likelihood, mask_id))

    return {
        "rows": len(examples),
        "evaluated": nll(*evaluated),
        "evaluated_quantization": evaluated[0].quantization,
        "merged": nll(*exported),
        "dtype": exported[0].dtype,
    }
