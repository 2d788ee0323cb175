"""Training in Dream 7B's shape on one GPU and on several of one node: tokens per second, memory, ratio.

Each measurement is `train_adapter` under the workflow's own launcher; rates are those of its log after the first steps.
The adapter is QLoRA's on 4-bit weights; all weights are trained in bf16 with float32 states, shared out by FSDP.
Checkpoints are left out (one of all weights takes 85 GiB on disk), the results are written. Weights are random, so
nothing is said about quality. One line of JSON per measurement, then the ratios.

usage   python benchmarks/several_gpus.py --work /tmp/several --gpus 2
        ... --toy                    a small model, on the CPU, in a minute: shows only that the benchmark runs
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from seven_b_shape import IDS, TOY, TOY_IDS, report, timed, write_checkpoint, write_shards

from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train import steps
from dreamtune.train import train as training

LAUNCHER = Path(__file__).parents[1] / "workflow/scripts/torchrun.py"
ROWS = 16  # of a window: 1,024 tokens each
WARM_UP = 3  # steps that are not counted


def main() -> None:
    """Measure everything in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and outputs")
    parser.add_argument("--gpus", type=int, default=2, help="GPUs of the measurements beside that of one")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of each measurement")
    parser.add_argument("--memory-gib", type=float, help="of each GPU, as on a smaller one; all there is if not given")
    parser.add_argument("--only", nargs="*", help="measurements to make, such as lora-1 or full-2; all if not given")
    arguments = parser.parse_args()
    if (arguments.work / "settings.json").exists():
        return measured(arguments.work)
    gpu = None if arguments.toy else torch.cuda.get_device_name()
    report("machine", gpu=gpu, torch=torch.__version__, toy=arguments.toy)
    device = "cpu" if arguments.toy else "cuda"
    if not (arguments.work / "model").exists():
        timed("checkpoint", lambda: write_checkpoint(arguments.work / "model", TOY if arguments.toy else {}, device))
    if not (arguments.work / "shards").exists():
        lengths = [64 if arguments.toy else 1024] * ROWS * arguments.steps
        write_shards(arguments.work / "shards", lengths, TOY_IDS if arguments.toy else IDS)
    torch.cuda.empty_cache()  # what the checkpoint was made with is the others' now
    for finetuning in ("lora", "full"):
        counts = [n for n in (1, arguments.gpus) if not arguments.only or f"{finetuning}-{n}" in arguments.only]
        rates = [run(arguments, finetuning, count) for count in counts]
        if len(rates) == 2 and all(rates):
            print(f"{finetuning}: {rates[1] / rates[0]:.2f} x on {arguments.gpus} GPUs", flush=True)


def run(arguments: argparse.Namespace, finetuning: str, processes: int) -> float:
    """Train in a launcher of its own; return tokens per second, 0 where it did not end well."""
    folder = arguments.work / f"{finetuning}-{processes}"
    folder.mkdir()
    settings = {"finetuning": finetuning, "gpus": processes, "memory_gib": arguments.memory_gib, "toy": arguments.toy}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, LAUNCHER, "--standalone", "--nproc-per-node", str(processes)]
    start = time.perf_counter()
    with (folder / "log").open("w") as log:
        done = subprocess.run([*command, __file__, "--work", folder], stderr=log)
    said = (folder / "log").read_text().splitlines()
    values: dict[str, Any] = {"finetuning": finetuning, "processes": processes, "rc": done.returncode}
    values["said"] = [line for line in said if "tokens a micro-batch" in line or done.returncode][-3:]
    if done.returncode == 0:
        found = json.loads((folder / "out/training.json").read_text())
        lines = [json.loads(line) for line in (folder / "out/train_log.jsonl").read_text().splitlines()]
        first, last = lines[WARM_UP - 1], lines[-1]
        values["tokens_per_s"] = (last["tokens"] - first["tokens"]) / (last["wall_s"] - first["wall_s"])
        values |= {name: found[name] for name in ("first_loss", "last_loss", "peak_memory_gib", "trainable")}
        values |= {"host_gib": found["host_memory_gib"], "wall_s": time.perf_counter() - start}
        values["gate"] = json.loads((folder / "out/gate.json").read_text())["passed"]
    report("training", **values)
    return float(values.get("tokens_per_s", 0.0))


def measured(folder: Path) -> None:
    """Be one of the processes of a measurement."""
    given = json.loads((folder / "settings.json").read_text())
    (folder / "out").mkdir(exist_ok=True)
    steps.save = training.save = lambda run: None
    changes: dict[str, Any] = {name: given[name] for name in ("finetuning", "gpus", "memory_gib")}
    settings = TrainConfig(global_batch=ROWS, max_tail=0, log_every=1, epochs=1, validation_rows=0, **changes)
    full, toy = given["finetuning"] == "full", given["toy"]
    base = ModelConfig(
        path=str(folder.parent / "model"),
        quantization="none" if full else "nf4",
        dtype="bfloat16",
        device="cpu" if toy else "cuda",
    )
    training.train_adapter(settings, base, folder.parent / "shards", folder / "out", folder / "work")


if __name__ == "__main__":
    main()
