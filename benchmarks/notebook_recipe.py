"""The notebook's recipe, against which benchmarks measure: QLoRA as its cells had it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import Qwen2ForCausalLM

from dreamtune.model.nf4 import forbid_repacking, nf4_config
from dreamtune.model.official_format import native_config


def notebook_model(folder: Path, device: str) -> Any:
    """Return a checkpoint as the notebook's cells left it, in NF4 with LoRA on q and v."""
    return qlora_model(folder, ("q_proj", "v_proj"), device, "eager", reentrant=True)


def qlora_model(folder: Path, modules: Sequence[str], device: str, attention: str, reentrant: bool) -> Any:
    """Return a checkpoint in NF4 as `prepare_model_for_kbit_training` and LoRA on `modules` leave it.

    Args:
        folder: of the checkpoint, in Dream's format.
        modules: names of the linear layers with an adapter.
        device: "cuda" or "cpu".
        attention: transformers' name of the implementation, such as "sdpa".
        reentrant: whether activation checkpointing is re-entrant.
    """
    model = Qwen2ForCausalLM.from_pretrained(
        folder,
        config=native_config(json.loads((folder / "config.json").read_text()), "dream"),
        dtype=torch.bfloat16,
        device_map={"": device},
        attn_implementation=attention,
        quantization_config=nf4_config(torch.bfloat16),
    )
    forbid_repacking(model)
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=list(modules), task_type="CAUSAL_LM")
    return get_peft_model(model, lora).train()


def notebook_pass(model: Any, length: int, padded: int, special: dict[str, int]) -> None:
    """Forward and backward of one padded row; the loss takes the float32 logits of every position."""
    device = next(model.parameters()).device
    ids = torch.randint(0, special["mask_id"] - 1, (1, padded), device=device)
    ids[:, length:] = special["pad_id"]
    visible = (torch.arange(padded, device=device) < length)[None].long()
    logits = model(input_ids=ids, attention_mask=visible).logits  # float32, of every position
    targets = ids[0, 1:].masked_fill(visible[0, 1:] == 0, -100)
    (torch.nn.functional.cross_entropy(logits[0, :-1].float(), targets) / 8).backward()
