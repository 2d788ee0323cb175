"""A random Dream-shaped model of a few thousand weights and hand-made shards, for tests of training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from dreamtune.data.shard_writer import ShardWriter
from dreamtune.formats.shards import SHARD
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import LoraSettings, TrainConfig
from dreamtune.train.micro_batch_plan import MicroBatchPlan

VOCAB, END, MASK = 64, 62, 63
IDS = {"mask_id": MASK, "end_id": END, "beginning_id": END, "pad_id": END, "vocab_size": VOCAB}
MAX_TOKENS = 32


def make_model(folder: Path, seed: int = 0) -> ModelConfig:
    """Write a 2-layer model in Dream's format; return the section that names it (float32, one thread)."""
    folder.mkdir(parents=True)
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    weights = Qwen2ForCausalLM(Qwen2Config(**shape, initializer_range=0.2)).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    dream = {"model_type": "Dream", "architectures": ["DreamModel"], "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    ids = {"mask_token_id": MASK, "eos_token_id": END, "bos_token_id": END, "pad_token_id": END}
    (folder / "config.json").write_text(json.dumps(shape | dream | ids | {"hidden_act": "silu"}))
    return ModelConfig(path=str(folder), quantization="none", dtype="float32", device="cpu", threads=1)


def make_model_without_mask(folder: Path) -> ModelConfig:
    """Write such a model with a tokenizer of the tokens below MASK, so that its mask token has to be a new one."""
    made = make_model(folder)
    vocab = {f"w{i}": i for i in range(END)} | {"[END]": END}
    content = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "[END]"}')
    config = json.loads((folder / "config.json").read_text())
    del config["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    return made.model_copy(update={"mask_token": "new"})


def make_rows(count: int, first_id: int = 0) -> list[dict[str, Any]]:
    """Return rows whose response repeats their prompt, so that there is something to learn; every fifth is cut."""
    rows = []
    for number in range(first_id, first_id + count):
        draw = np.random.default_rng(number)
        prompt = [END, *draw.integers(0, END, int(draw.integers(3, 7))).tolist()]
        response = np.resize(prompt[1:], int(draw.integers(4, 14))).tolist()
        complete = number % 5 != 4
        rows.append(
            {
                "example_id": number,
                "cluster": number,
                "input_ids": prompt + response + [END] * complete,
                "prompt_tokens": len(prompt),
                "complete": complete,
                "question": f"q{number}",
                "answer": "1",
            }
        )
    return rows


def make_shards(folder: Path, train: int = 24, validation: int = 6) -> Path:
    """Write shards of `make_rows`; the validation rows have other ids and texts."""
    folder.mkdir(parents=True)
    splits: dict[str, object] = {}
    for name, count, first in (("train", train, 0), ("validation", validation, 10_000), ("test", 0, 0)):
        writer = ShardWriter(folder, name, 10)
        if count:
            writer.write(pa.Table.from_pylist(make_rows(count, first), SHARD))
        splits[name] = writer.close()
    meta = {"max_tokens": MAX_TOKENS, "tokenizer": IDS, "splits": splits}
    (folder / "shards.json").write_text(json.dumps(meta))
    return folder


def plan(tokens: int = 40) -> MicroBatchPlan:
    """Return a plan whose micro-batches hold at most `tokens` tokens."""
    return MicroBatchPlan(tokens, recompute_layers=0, weights="packed", compile=False)


def settings(**changes: Any) -> TrainConfig:
    """Return quick settings: windows of 4, 2 epochs, every step logged."""
    quick: dict[str, Any] = {
        "lora": LoraSettings(rank=4, alpha=8, dropout=0.1, target_modules=["all-linear"]),
        "learning_rate": 1e-2,
        "max_tail": 3,
        "global_batch": 4,
        "micro_batch_tokens": 40,
        "epochs": 2,
        "log_every": 1,
    }
    return TrainConfig(**(quick | changes))
