"""Train and generate in Dream 7B's shape with random weights, through the code that the workflow runs.

Shows that NF4 QLoRA loads, trains, resumes and generates on a GPU, and with what time and memory. Random weights say
nothing about quality. Without a GPU it runs on the CPU; --layers 2 makes that bearable.

usage   python benchmarks/seven_b_shape.py --work /tmp/seven_b
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from _src import whole  # which also puts src on the path
from safetensors.torch import save_file

from dreamtune.data.shard_writer import ShardWriter
from dreamtune.formats.shards import SHARD
from dreamtune.generate.loading import load_to_generate
from dreamtune.generate.sampler import generate
from dreamtune.model.loading import count_parameters, empty_model
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter

SHAPE = Path(__file__).parents[1] / "tests/fixtures/dream_7b/config.json"
END, MASK, FIRST_SPECIAL = 151643, 151666, 151643
IDS = {"mask_id": MASK, "end_id": END, "beginning_id": 151665, "pad_id": END, "vocab_size": 152064}
# A model that a CPU trains in seconds: changes to the 7B's config.json, and its special tokens.
TOY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "mask_token_id": 500,
    "eos_token_id": 501,
    "bos_token_id": 501,
    "pad_token_id": 501,
}
TOY_IDS = {"mask_id": 500, "end_id": 501, "beginning_id": 502, "pad_id": 501, "vocab_size": 512}


def main() -> None:
    """Write a random checkpoint and shards, train with both optimisers, generate; print one line of JSON per part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and outputs")
    parser.add_argument("--layers", type=int, default=28, help="decoder layers")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps of 8 rows")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated per prompt")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report("machine", gpu=torch.cuda.get_device_name() if device == "cuda" else None, torch=torch.__version__)
    folder = timed(
        "checkpoint written",
        lambda: write_checkpoint(arguments.work / "model", {"num_hidden_layers": arguments.layers}, device),
    )
    shards = write_shards(arguments.work / "shards", [arguments.tokens] * 8 * arguments.steps)
    base = ModelConfig(path=str(folder), quantization="nf4", dtype="bfloat16", device=device)
    optimizers = ("adamw", "paged_adamw_8bit") if device == "cuda" else ("adamw",)
    for optimizer in optimizers:
        train(arguments, base, shards, optimizer)
    tuned = load_to_generate(base, arguments.work / "out-adamw/adapter")
    report("parameters", trainable_and_total=count_parameters(tuned))
    prompts = np.random.default_rng(1).integers(0, FIRST_SPECIAL, (4, 128)).tolist()
    settings = GenerateConfig(max_new_tokens=arguments.new_tokens, batch_size=4)
    answers = timed("generated", lambda: generate(tuned, prompts, settings), prompts=4, steps=arguments.new_tokens)
    assert all(MASK not in answer for answer in answers)


def train(arguments: argparse.Namespace, base: ModelConfig, shards: Path, optimizer: Any) -> None:
    """Train for the steps asked for and print what training.json and gate.json say."""
    settings = TrainConfig(
        optimizer=optimizer,
        max_tail=0,
        log_every=1,
        epochs=1,
        validation_rows=0,
    )
    out, work = arguments.work / f"out-{optimizer}", arguments.work / f"work-{optimizer}"
    out.mkdir()
    timed(f"trained with {optimizer}", lambda: train_adapter(settings, base, shards, out, work))
    found = json.loads((out / "training.json").read_text())
    gate = json.loads((out / "gate.json").read_text())
    names = ("steps", "tokens", "seconds_per_step", "peak_memory_gib", "loaded_gib", "first_loss")
    report(optimizer, **{name: found[name] for name in names}, last_loss=found["last_loss"], gate=gate["passed"])


@whole
def write_checkpoint(folder: Path, changes: dict[str, int], device: str) -> Path:
    """Write random weights in the official format, a decoder layer per file; `changes` are to the 7B's config.json."""
    folder.mkdir(parents=True)
    raw = json.loads(SHAPE.read_text()) | changes
    (folder / "config.json").write_text(json.dumps(raw))
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in empty_model(raw).named_parameters():
        part = ".".join(name.split(".")[:3]) if ".layers." in name else name
        scale = 0.02 if parameter.ndim == 2 else 0.0
        value = torch.randn(parameter.shape, device=device, dtype=torch.bfloat16) * scale
        files.setdefault(part, {})[name] = (value + 1 if "norm" in name else value).cpu()
    index = {}
    for number, tensors in enumerate(files.values(), start=1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@whole
def write_shards(folder: Path, lengths: Sequence[int], ids: dict[str, int] = IDS) -> Path:
    """Write rows of random tokens of these lengths, a quarter of each being the prompt."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    table = [
        {
            "example_id": i,
            "input_ids": [*draw.integers(0, min(ids["end_id"], ids["mask_id"]), tokens - 1).tolist(), ids["end_id"]],
            "prompt_tokens": tokens // 4,
            "complete": True,
            "cluster": i,
            "question": str(i),
            "answer": "",
        }
        for i, tokens in enumerate(lengths)
    ]
    writer = ShardWriter(folder, "train", 1000)
    writer.write(pa.Table.from_pylist(table, SHARD))
    meta = {"max_tokens": max(lengths), "tokenizer": ids, "splits": {"train": writer.close()}}
    (folder / "shards.json").write_text(json.dumps(meta))
    return folder


def timed(what: str, call: Any, **more: Any) -> Any:
    """Call, and print how many seconds it took."""
    start = time.perf_counter()
    value = call()
    report(what, seconds=round(time.perf_counter() - start, 2), **more)
    return value


def report(what: str, **values: Any) -> None:
    """Print one line."""
    print(json.dumps({"what": what} | values), flush=True)


if __name__ == "__main__":
    main()
