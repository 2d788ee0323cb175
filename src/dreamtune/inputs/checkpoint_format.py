"""The official checkpoint formats as their files say them: config.json and the names of the weights. Torch-free.

Dream is Qwen2 with bidirectional attention and keeps Qwen2's key names; LLaDA is Llama with key names that differ.
No code that comes with a checkpoint is ever executed: a folder's Python files and pickles are not read.
"""

import json
import re
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError

# config.json's model_type -> family
FAMILIES = {"Dream": "dream", "llada": "llada", "qwen2": "qwen2", "llama": "llama"}
# Families whose head is shifted: raw row i - 1 scores token i. Dream inherits this from the autoregressive model it
# was adapted from (Gong et al. 2024, arXiv 2410.17891); LLaDA was trained from scratch without it.
SHIFTED = {"dream", "qwen2", "llama"}
# Fields of config.json, native and LLaDA's, and the most that they may be: many times any published model's, and few
# enough that a model is described in seconds.
MOST = {
    "num_hidden_layers": 1_000,
    "n_layers": 1_000,
    "num_attention_heads": 2**12,
    "n_heads": 2**12,
    "hidden_size": 2**17,
    "d_model": 2**17,
    "intermediate_size": 2**20,
    "mlp_hidden_size": 2**20,
    "vocab_size": 2**22,
    "embedding_size": 2**22,
}
CAUSAL = ("qwen2", "llama")  # families of autoregressive checkpoints, which model.attention causal is for
LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
LLADA_BLOCK = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
# Options of LLaDA's configuration that Llama lacks, each with the only value that leaves the same model.
LLADA_REQUIRED: dict[str, Any] = {
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "rope": True,
    "scale_logits": False,
}
LLADA_NEEDED = ("d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint folder's config.json.

    Raises:
        UserError: the file is missing or not JSON, the checkpoint is already quantised, a size is no number from 1 to
            its limit (`MOST`), or layers see only a window of the tokens.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} holds no config.json; expected a checkpoint folder with config.json and safetensors")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no JSON object; copy or download it again")
    if "quantization_config" in config:
        raise UserError(f"{folder} is already quantised; give the checkpoint in full precision, it is quantised here")
    for name, most in MOST.items():
        size = config.get(name)
        if size is not None and (type(size) is not int or not 1 <= size <= most):
            raise UserError(f"{path} has {name} = {size!r}; expected a whole number from 1 to {most:,}")
    if _slides(config):
        raise UserError(
            f"{path} limits the attention of layers to a window of {config.get('sliding_window')} tokens, and here all "
            "layers see whole documents; if the model was trained without it, set use_sliding_window to false there, "
            "else take another model"
        )
    return config


def _slides(config: dict[str, Any]) -> bool:
    """Whether layers see only a window of the tokens before, and the window is shorter than the context.

    >>> _slides({"use_sliding_window": True, "sliding_window": 4096, "max_position_embeddings": 32768})
    True
    >>> _slides({"use_sliding_window": False, "sliding_window": 4096}), _slides({"sliding_window": 4096})
    (False, False)
    """
    listed = config.get("layer_types")
    slides = config.get("use_sliding_window") is True or (isinstance(listed, list) and "sliding_attention" in listed)
    window, context = config.get("sliding_window"), context_tokens(config)
    return slides and isinstance(window, int) and (context is None or window < context)


def families_of(raw: dict[str, Any]) -> list[str]:
    """Return the families that a config.json can belong to: by its model_type, else by the names of its fields.

    Dream and Qwen2 have the same architecture. Llama has it without biases, which config.json does not always say.

    >>> families_of({"model_type": "Dream"}), families_of({"model_type": "my-llada", "d_model": 4096, "n_layers": 32})
    (['dream', 'qwen2'], ['llada'])
    """
    kind = FAMILIES.get(str(raw.get("model_type")))
    if kind in ("dream", "qwen2"):
        return ["dream", "qwen2"]
    if kind:
        return [kind]
    if "d_model" in raw and "n_layers" in raw:
        return ["llada"]
    return ["dream", "qwen2", "llama"] if "hidden_size" in raw and "num_hidden_layers" in raw else []


def context_tokens(raw: dict[str, Any]) -> int | None:
    """Return the number of positions that a checkpoint was made for; None if its config.json does not say."""
    return raw.get("max_position_embeddings") or raw.get("max_sequence_length")


def family_of(raw: dict[str, Any], family: str | None = None, folder: Path | None = None) -> str:
    """Return the model family, "dream", "llada", "qwen2" or "llama", that a config.json belongs to.

    Args:
        raw: the content of config.json.
        family: the setting model.family, which decides where config.json leaves it open.
        folder: of config.json, for messages.

    Raises:
        UserError: the model_type belongs to no known family, or config.json cannot belong to the given one.
    """
    kind, possible = raw.get("model_type"), families_of(raw)
    where = "config.json" if folder is None else str(folder / "config.json")
    known = " or ".join(possible) or f"no known family ({', '.join(FAMILIES.values())})"
    if family is None and kind not in FAMILIES:
        remedy = f"if it is one, set model.family to {known}" if possible else f"it can be {known}"
        raise UserError(f"{where} has model_type {kind!r}; expected one of {', '.join(FAMILIES)}; {remedy}")
    if family is not None and family not in possible:
        remedy = "leave it null" if kind in FAMILIES else f"set it to {known}" if possible else "take another model"
        raise UserError(f"model.family is {family!r}, and {where} (model_type {kind!r}) can be {known} only; {remedy}")
    return family or FAMILIES[str(kind)]


def check_attention(family: str, attention: str, folder: Path) -> None:
    """Raise a UserError if the setting model.attention is causal, and the checkpoint is a diffusion model.

    Args:
        family: of the checkpoint.
        attention: the setting.
        folder: of the checkpoint, for the message.
    """
    if attention == "causal" and family not in CAUSAL:
        raise UserError(
            f"model.attention is causal, and {folder} is a {family} model, whose tokens see each other both ways; set "
            f"it to bidirectional, or take a checkpoint of {' or '.join(CAUSAL)} (model.family)"
        )


def native_fields(raw: dict[str, Any], family: str) -> dict[str, Any]:
    """Return the fields of a config.json under the names that transformers gives them.

    Raises:
        UserError: a LLaDA variant that Llama cannot express, or one whose config.json lacks a field.
    """
    return llada_fields(raw) if family == "llada" else raw


def llada_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of Llama's configuration that a LLaDA config.json stands for.

    Raises:
        UserError: a LLaDA variant that Llama cannot express, or a field that is missing.
    """
    if lacking := [key for key in LLADA_NEEDED if key not in raw]:
        raise UserError(f"config.json lacks {lacking[0]}, which every LLaDA model has; copy or download it again")
    for key, value in LLADA_REQUIRED.items():
        if raw.get(key, value) != value:
            raise UserError(
                f"config.json has {key} = {raw[key]!r}; this LLaDA variant is not supported, only {value!r}"
            )
    hidden, ratio = raw["d_model"], raw.get("mlp_ratio", 4)
    return {
        "vocab_size": raw.get("embedding_size") or raw["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": raw.get("mlp_hidden_size") or ratio * hidden,
        "num_hidden_layers": raw["n_layers"],
        "num_attention_heads": raw["n_heads"],
        "num_key_value_heads": raw.get("n_kv_heads") or raw["n_heads"],
        "hidden_act": raw.get("activation_type", "silu"),
        "max_position_embeddings": raw["max_sequence_length"],
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-5),
        "rope_theta": raw.get("rope_theta", 10000.0),
        "tie_word_embeddings": raw.get("weight_tying", False),
        "mask_token_id": raw.get("mask_token_id"),
        "eos_token_id": raw.get("eos_token_id"),
        "pad_token_id": raw.get("pad_token_id"),
    }


def key_patterns(family: str) -> dict[str, str]:
    """Return regular expressions and replacements that turn official key names into native ones; {} if they agree."""
    if family != "llada":
        return {}
    top = {rf"^model\.transformer\.{old}\.": f"{new}." for old, new in LLADA_TOP.items()}
    block = {
        rf"^model\.transformer\.blocks\.(\d+)\.{old}\.": rf"model.layers.\1.{new}." for old, new in LLADA_BLOCK.items()
    }
    return top | block


def native_key(key: str, family: str) -> str:
    """Return the native name of a weight that has the name `key` in the official checkpoint.

    >>> native_key("model.transformer.blocks.3.ff_proj.weight", "llada")
    'model.layers.3.mlp.gate_proj.weight'
    """
    for pattern, name in key_patterns(family).items():
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key
