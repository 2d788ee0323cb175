"""Random Qwen2- and Llama-shaped models with the embedded model's tokenizer, for tests of causal models."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from conftest import ROOT
from dreamtune.settings.model import ModelConfig

VOCABULARY, END, MASK = 154, 0, 1  # of the embedded model's tokenizer
KINDS: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_model(folder: Path, kind: str, seed: int = 0, **shape: Any) -> ModelConfig:
    """Write a 2-layer model with transformers' own code; return the section that names it, causal, in float32.

    Args:
        folder: that is made.
        kind: "qwen2" or "llama".
        seed: of the weights, which are large enough that every token matters.
        shape: fields of its configuration.
    """
    config, model = KINDS[kind]
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    torch.manual_seed(seed)
    model(config(**(fields | shape))).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(ROOT / "resources/tiny-dream" / name, folder / name)
    return ModelConfig(
        path=str(folder), attention="causal", quantization="none", dtype="float32", device="cpu", threads=1
    )


def theirs(config: ModelConfig) -> Any:
    """Return the model as transformers alone loads it, with its plainest attention."""
    _, kind = KINDS["llama" if "llama" in config.path else "qwen2"]
    return kind.from_pretrained(config.path, dtype=torch.float32, attn_implementation="eager").eval()
