"""Training in Dream 7B's shape against the notebook's recipe: tokens per second, memory, share of the matmul rate.

Ours is `train_adapter`, the code that the workflow runs; its rate is that of its own log after the first few steps.
The notebook's recipe is QLoRA as its cells had it: eager attention, one row padded to 1,024 tokens per pass,
embeddings, norms and head in float32, re-entrant checkpointing, and a loss over the whole vocabulary at every position.
Weights are random, so nothing is said about quality. One line of JSON per measurement, then a table.

usage   python benchmarks/train_throughput.py --work /tmp/seven_b --check
        ... --toy                    a small model, without a GPU, in seconds: shows only that the benchmark runs
"""

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import torch
from notebook_recipe import notebook_model, notebook_pass
from seven_b_shape import IDS, TOY, TOY_IDS, report, timed, write_checkpoint, write_shards

from dreamtune.device import phases
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter

LINEAR = 6.53e9  # parameters of the 7B's decoder layers; embeddings and head are not counted
# Lengths in tokens of GSM8K's 7,473 training rows under config.yaml's template, at every 5 % from shortest to longest.
GSM8K = (62, 95, 105, 112, 119, 125, 131, 137, 143, 150, 156, 163, 171, 179, 188, 197, 209, 224, 243, 274, 458)
PADDED = 1024
WARM_UP = 5  # steps that are not counted: in them lengths are met that nothing was compiled for yet
SMALL = {"weights": "packed", "recompute_layers": 10_000, "memory_gib": 11.0}
# SmolLM2-135M's shape: changes to the 7B's config.json, its special tokens, and the adapter of its rows.
SMOLLM2 = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "mask_token_id": 49151,
    "eos_token_id": 49150,
    "bos_token_id": 49150,
    "pad_token_id": 49150,
}
SMOLLM2_IDS = {"mask_id": 49151, "end_id": 49150, "beginning_id": 49149, "pad_id": 49150, "vocab_size": 49152}
SMOLLM2_LINEAR = 1.06e8
ALL_LINEAR = {"lora": LoraSettings(rank=16, alpha=32, dropout=0.05, target_modules=["all-linear"])}
FP8 = {"products": "fp8"}
Q_AND_V = LoraSettings(rank=16, alpha=32, dropout=0.05, target_modules=["q_proj", "v_proj"])
SHARED = {"lora": Q_AND_V.model_copy(update={"shared_dropout": True})}
SMALL_MODEL = {
    "lora": LoraSettings(rank=128, alpha=256, dropout=0.05, target_modules=["all-linear"]),
    "global_batch": 32,
}
SMALL_SHARED = {"lora": SMALL_MODEL["lora"].model_copy(update={"shared_dropout": True})}  # type: ignore[attr-defined]
SMALL_MODEL_STEPS, SMALL_MODEL_WARM_UP = 200, 100  # a graph is captured when its shape is met a second time
PLAN = "{micro_batch_tokens} tokens a micro-batch, {recompute_layers} layers recomputed, {weights}"
TARGETS = {
    "full rows": 7.0,
    "full rows, fp8": 9.5,
    "GSM8K lengths": 35.0,
    "share": 0.72,
    "share, fp8": 1.05,
    "1 x 1,024": 8.0,
    "1 x 4,096": 10.0,
}
TOKENS_PER_S = {
    "SmolLM2 shape": 300_000,
    "4,096-token rows, all-linear": 17_000,
    "4,096-token rows, all-linear, fp8": 22_000,
}


def main() -> int:
    """Measure everything in one run; with --check return 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and outputs")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU")
    parser.add_argument("--steps", type=int, default=16, help="optimiser steps of 8 rows in each measurement of ours")
    parser.add_argument("--only", nargs="*", help="measurements to make; all if not given")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    bench = Bench(arguments.work, arguments.toy, arguments.steps, arguments.only)
    found = bench.run()
    print(table(found))
    missed = [] if arguments.toy else misses(found)
    print("\n".join(missed) or "every target that was measured is met")
    return 1 if arguments.check and missed else 0


class Bench:
    """The measurements, on one checkpoint."""

    def __init__(self, work: Path, toy: bool, steps: int, only: Sequence[str] | None) -> None:
        self.work, self.toy, self.only = work, toy, only
        self.scale = 16 if toy else 1  # lengths are divided by it
        self.steps = 8 if toy else steps
        self.device = "cpu" if toy else "cuda"
        gpu = None if toy else torch.cuda.get_device_name()
        report("machine", gpu=gpu, torch=torch.__version__, toy=toy)

    def base(self, small: bool = False) -> ModelConfig:
        """Return the model in Dream 7B's shape in NF4, or in SmolLM2's in bf16; it is written at the first call."""
        folder = self.work / ("small_model" if small else "model")
        if not folder.exists():
            changes: dict[str, int] = TOY if self.toy else SMOLLM2 if small else {}
            timed("checkpoint written", lambda: write_checkpoint(folder, changes, self.device))
        kind: Any = {"quantization": "none" if small else "nf4", "device": self.device}
        return ModelConfig(path=str(folder), dtype="bfloat16", **kind)

    def run(self) -> dict[str, dict[str, Any]]:
        """Return the measurements by name."""
        small_steps = 8 if self.toy else SMALL_MODEL_STEPS
        full, short = [PADDED // self.scale] * 8 * self.steps, self.gsm8k(8 * self.steps)
        found = {"matmul": {"flop_per_s": matmul_rate(512 if self.toy else 8192, self.device)}}
        report("matmul", **found["matmul"])
        plans: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
            "full rows": (full, {}),
            "GSM8K lengths": (short, {}),
            "GSM8K lengths, windows of 64": (self.gsm8k(64 * self.steps), {"global_batch": 64}),
            "1 x 1,024": (full[: 8 * 8], SMALL | {"micro_batch_tokens": 1024}),
            "1 x 4,096": ([4096 // self.scale] * 64, SMALL | {"micro_batch_tokens": 4096}),
            **{f"{gib} GB card": (full, {"memory_gib": gib - 1.0}) for gib in (12, 24)},
            "8,192-token rows": ([8192 // self.scale] * 64, {}),
            "4,096-token rows": ([4096 // self.scale] * 64, {}),
            "80 GB card": (full, {"memory_gib": 79.0}),
            "full rows, shared dropout": (full, SHARED),
            "full rows, windows of 16": (full + full, {"global_batch": 16}),
            "4,096-token rows, all-linear": ([4096 // self.scale] * 64, ALL_LINEAR),
            **({} if self.toy else {"full rows, fp8": (full, FP8)}),
            **({} if self.toy else {"4,096-token rows, all-linear, fp8": ([4096] * 64, ALL_LINEAR | FP8)}),
            "SmolLM2 shape": (self.gsm8k(32 * small_steps), SMALL_MODEL),
            "SmolLM2 shape, shared dropout": (self.gsm8k(32 * small_steps), SMALL_MODEL | SMALL_SHARED),
            "SmolLM2 shape, no graphs": (self.gsm8k(32 * self.steps), SMALL_MODEL | {"graphs": False}),
        }
        if self.wanted("notebook"):
            found |= {
                f"notebook, {name}": self.notebook(name, rows)
                for name, rows in (("full rows", full), ("GSM8K lengths", short))
            }
        for name, (lengths, changes) in plans.items():
            if self.wanted(name):
                found[name] = self.ours(name, lengths, changes)
        return found

    def wanted(self, name: str) -> bool:
        return not self.only or name in self.only

    def gsm8k(self, rows: int) -> list[int]:
        """Return lengths that are distributed as GSM8K's are."""
        even = (np.random.default_rng(0).permutation(rows) + 0.5) / rows
        return [max(int(n) // self.scale, 5) for n in np.interp(even, np.linspace(0, 1, len(GSM8K)), GSM8K)]

    def lora(self, modules: Sequence[str]) -> LoraSettings:
        """Return the adapter of all measurements, beside these modules."""
        return LoraSettings(rank=16, alpha=32, dropout=0.05, target_modules=list(modules))

    def ours(self, name: str, lengths: Sequence[int], changes: dict[str, Any]) -> dict[str, Any]:
        """Train through the workflow's own code."""
        folder = self.work / name.replace(" ", "_").replace(",", "")
        small = name.startswith("SmolLM2")
        ids, base = SMOLLM2_IDS if small else IDS, self.base(small)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
        shards = write_shards(folder / "shards", lengths, TOY_IDS if self.toy else ids)
        settings = {"lora": Q_AND_V, "max_tail": 0, "log_every": 1, "epochs": 1, "validation_rows": 0}
        settings |= {"compile": None if self.toy else True} | changes  # True: as in a run of hours
        (folder / "out").mkdir()
        start_anew(self.device)
        phases.begin()
        start = time.perf_counter()
        train_adapter(TrainConfig(**settings), base, shards, folder / "out", folder / "work")
        said = json.loads((folder / "out/training.json").read_text())
        lines = [json.loads(line) for line in (folder / "out/train_log.jsonl").read_text().splitlines()]
        warm_up = SMALL_MODEL_WARM_UP if len(lines) == SMALL_MODEL_STEPS else WARM_UP
        first, last = lines[min(warm_up, len(lines) - 2)], lines[-1]
        passed = json.loads((folder / "out/gate.json").read_text())["passed"]
        values = {
            "tokens_per_s": (last["tokens"] - first["tokens"]) / (last["wall_s"] - first["wall_s"]),
            "peak_gib": said["peak_memory_gib"],
            "seconds_per_step": said["seconds_per_step"],
            "plan": said["ran_as"],
            "gate": passed,
            "wall_s": time.perf_counter() - start,
            "phases_s": phases.seconds(),
        }
        report(name, **values)
        return values

    def notebook(self, name: str, lengths: Sequence[int]) -> dict[str, Any]:
        """Train as the notebook did, one padded row per pass, and count the tokens that are no padding."""
        start_anew(self.device)
        model = notebook_model(Path(self.base().path), self.device)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-5)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        lengths, seconds = lengths[: 8 * 3], 0.0
        for step in range(0, len(lengths), 8):
            start = time.perf_counter()
            for length in lengths[step : step + 8]:
                notebook_pass(model, length, PADDED // self.scale, TOY_IDS if self.toy else IDS)
            optimizer.step()
            optimizer.zero_grad()
            if self.device == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - start if step else 0.0  # the first one warms up
        tokens = sum(lengths[8:])
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None
        values = {
            "tokens_per_s": tokens / seconds,
            "peak_gib": peak,
            "seconds_per_step": seconds / (len(lengths) / 8 - 1),
        }
        report(f"notebook, {name}", **values)
        return values


def start_anew(device: str) -> None:
    """Free what the measurement before left: its model, and what was compiled for it."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def matmul_rate(size: int, device: str) -> float:
    """Return the FLOP/s of a bf16 product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    repeats, best = (20, 3) if device == "cuda" else (2, 1)
    rates = []
    for _ in range(best + 1):
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(repeats * 2 * size**3 / (time.perf_counter() - start))
    return max(rates[1:])


def share(found: dict[str, dict[str, Any]], name: str) -> float:
    """Return tokens/s x 4 N over the matmul rate: 2 N forward, 2 N backward, as no weight has a gradient."""
    linear = SMOLLM2_LINEAR if name.startswith("SmolLM2") else LINEAR
    return float(found[name]["tokens_per_s"] * 4 * linear / found["matmul"]["flop_per_s"])


def ratio(found: dict[str, dict[str, Any]], name: str) -> float | None:
    """Return ours over the notebook's, in tokens that are no padding per second."""
    base = found.get(f"notebook, {name.split(', windows')[0].removesuffix(', fp8').removesuffix(', shared dropout')}")
    return found[name]["tokens_per_s"] / base["tokens_per_s"] if base else None


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the measurements as a table in Markdown."""
    lines = ["| rows | tokens/s | x notebook | share of the matmul rate | peak GiB | plan |", "|---" * 6 + "|"]
    for name in (name for name in found if name != "matmul"):
        times, values = ratio(found, name), found[name]
        cells = [
            name,
            f"{values['tokens_per_s']:,.0f}",
            f"{times:.1f}" if times else "",
            f"{share(found, name):.1%}",
            f"{values['peak_gib']:.2f}" if values["peak_gib"] else "",
            PLAN.format(**values["plan"]) if "plan" in values else "1 padded row a pass",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def misses(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each target that was measured and missed."""
    values: dict[str, float | None] = {}
    for name in ("full rows", "full rows, fp8", "GSM8K lengths"):
        values[name] = ratio(found, name) if name in found else None
    for kind, fp8 in (("share", False), ("share, fp8", True)):
        rates = [share(found, n) for n in found if n.startswith("full rows") and n.endswith(", fp8") == fp8]
        values[kind] = max(rates, default=None)
    lines = [f"{n}: {v:.2f}, below {TARGETS[n]}" for n, v in values.items() if v is not None and v < TARGETS[n]]
    for name, least in TOKENS_PER_S.items():
        if name in found and found[name]["tokens_per_s"] < least:
            lines.append(f"{name}: {found[name]['tokens_per_s']:,.0f} tokens/s, below {least:,}")
    peaks = {name: found[name]["peak_gib"] for name in ("1 x 1,024", "1 x 4,096") if name in found}
    return lines + [f"{n}: {v:.2f} GiB, above {TARGETS[n]}" for n, v in peaks.items() if v > TARGETS[n]]


if __name__ == "__main__":
    sys.exit(main())
