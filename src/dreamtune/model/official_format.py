"""The official checkpoint formats, read natively: config.json, the names of the weights, special tokens.

Dream is Qwen2 with bidirectional attention and keeps Qwen2's key names; LLaDA is Llama with key names that differ.
No code that comes with a checkpoint is ever executed: a folder's Python files and pickles are not read.
"""

import json
import re
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, Qwen2Config
from transformers.configuration_utils import PretrainedConfig

from dreamtune.errors import UserError

# config.json's model_type -> family
FAMILIES = {"Dream": "dream", "llada": "llada", "qwen2": "qwen2", "llama": "llama"}
# Families whose head is shifted: raw row i - 1 scores token i. Dream inherits this from the autoregressive model it
# was adapted from (Gong et al. 2024, arXiv 2410.17891); LLaDA was trained from scratch without it.
SHIFTED = {"dream", "qwen2", "llama"}
# Fields of config.json that name code or a storage type, not the architecture.
NOT_ARCHITECTURE = {"model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version"}
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


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint folder's config.json.

    Raises:
        UserError: the file is missing or not JSON, or the checkpoint is already quantised.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} holds no config.json; expected a checkpoint folder with config.json and safetensors")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if "quantization_config" in config:
        raise UserError(f"{folder} is already quantised; give the checkpoint in full precision, it is quantised here")
    return config


def family_of(raw: dict[str, Any], family: str | None = None) -> str:
    """Return the model family, "dream", "llada", "qwen2" or "llama", that a config.json belongs to.

    Args:
        raw: the content of config.json.
        family: overrides the family that its model_type names.

    Raises:
        UserError: the model_type belongs to no known family.
    """
    if family is None:
        kind = raw.get("model_type")
        if kind not in FAMILIES:
            raise UserError(f"config.json has model_type {kind!r}; expected one of {', '.join(FAMILIES)}")
        return FAMILIES[kind]
    return family


def native_config(raw: dict[str, Any], family: str) -> PretrainedConfig:
    """Return the transformers configuration that a config.json of `family` stands for, with `is_causal` set on it.

    Setting the layers' `is_causal` instead is a trap: with a 2-D padding mask the model silently turns causal.

    Raises:
        UserError: a LLaDA variant that Llama cannot express.
    """
    rest = {key: value for key, value in raw.items() if key not in NOT_ARCHITECTURE}
    config: PretrainedConfig
    if family == "llada":
        config = LlamaConfig(**_llada_fields(raw))
    elif family == "llama":
        config = LlamaConfig(**rest)
    else:
        config = Qwen2Config(**rest)
    config.is_causal = False
    config.use_cache = False
    return config


def _llada_fields(raw: dict[str, Any]) -> dict[str, Any]:
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


def special_token_id(folder: Path, raw: dict[str, Any], name: str) -> int | None:
    """Return the id of the `mask` or `eos` token: from config.json, else from the tokenizer's files, else None."""
    number = raw.get(f"{name}_token_id")
    if number is not None:
        return int(number[0] if isinstance(number, list) else number)
    files = [folder / "tokenizer_config.json", folder / "tokenizer.json"]
    if not all(file.exists() for file in files):
        return None
    named, tokens = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    token = named.get(f"{name}_token")
    content = token.get("content") if isinstance(token, dict) else token
    return next((t["id"] for t in tokens.get("added_tokens", []) if t["content"] == content), None)
