"""What FP8 products cost in quality: SmolLM2-135M fine-tuned on GSM8K with `train.products: fp8` and with bf16.

Each seed trains both ways with the same initial adapter, order, masks and dropout seeds, so that only the products
differ. Both adapters are then judged in bf16, as they are used: the NLL bound on the validation rows, under one set of
masks. FP8 passes if the 95 % t interval of the paired differences lies within the margin, which is fixed here before
anything is measured: 0.02 nats per token. (Two seeds in bf16 were seen 0.028 apart, so a quarter of the spread would be
smaller than five pairs can resolve.) Besides, the gradients of the adapter that the first seed trained are compared
with float32: relative error and cosine, in bf16 and in FP8.

usage   python benchmarks/fp8_quality.py --work /tmp/fp8 --model SMOLLM2 --data gsm8k_train.parquet --check
        SMOLLM2 is written by workflow/scripts/convert_gguf.py
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import scipy.stats
import torch
from peft import set_peft_model_state_dict
from seven_b_shape import report, timed

from dreamtune.data.prepare import prepare_shards
from dreamtune.model import fp8
from dreamtune.settings.data import Columns, DataConfig, Split
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train import run as runs
from dreamtune.train.log import History, Log
from dreamtune.train.micro_batches import forward_backward, make_window
from dreamtune.train.optimizer import make_optimizer
from dreamtune.train.run import Run, prepare_run
from dreamtune.train.steps import fit
from dreamtune.train.validation import validation_sums
from dreamtune.train.windows import TrainingWindows

MARGIN = 0.02  # nats per response token
WINDOWS = 4  # over which the gradient is compared
Weights = dict[str, torch.Tensor]


def main() -> int:
    """Train, judge, compare; with --check return 1 where the interval leaves the margin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and checkpoints")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, help="parquet file of training rows")
    columns = ["question", "gemini_thinking_trajectory", "solution"]
    parser.add_argument("--columns", nargs=3, default=columns, help="of question, reasoning and answer")
    parser.add_argument(
        "--mask-token", default="<reponame>", help="token that serves as mask token; '' for the model's own"
    )
    parser.add_argument("--seeds", type=int, default=6, help="pairs")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 32 rows")
    parser.add_argument("--rank", type=int, default=128, help="of the adapter, on all linear layers")
    parser.add_argument("--margin", type=float, default=MARGIN, help="nats per token")
    parser.add_argument("--emulate", action="store_true", help="on the CPU, to try this benchmark: FP8 is emulated")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the interval leaves the margin")
    arguments = parser.parse_args()
    if arguments.emulate:
        fp8.product, runs.check_fp8 = fp8.emulated_product, lambda *_: None  # type: ignore[attr-defined]
    report("machine", gpu=None if arguments.emulate else torch.cuda.get_device_name(), torch=torch.__version__)
    within = compare(Bench(arguments), arguments)
    return int(arguments.check and not within)


class Bench:
    """The settings of all runs, their shards, and a prepared run of each kind of products, so that it compiles once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work, self.steps, self.rank = arguments.work, arguments.steps, arguments.rank
        device: Any = "cpu" if arguments.emulate else "cuda"
        mask = arguments.mask_token
        self.base = ModelConfig(path=str(arguments.model), quantization="none", device=device, mask_token=mask or None)
        self.shards = self.work / "shards"
        question, reasoning, answer = arguments.columns
        data = DataConfig(
            files=[str(arguments.data)],
            columns=Columns(question=question, reasoning=reasoning, answer=answer),
            split=Split(validation=0.04, test=0.01),
        )
        self.shards.mkdir(parents=True)
        timed("shards", lambda: prepare_shards(data, self.base, self.shards))
        self.runs = {products: self.prepared(0, products=products) for products in ("bf16", "fp8")}

    def settings(self, seed: int, dropout: float = 0.05, **changes: Any) -> TrainConfig:
        """Return the settings of a run: all linear layers, windows of 32, learning rate 2e-4, short tails."""
        lora = LoraSettings(rank=self.rank, alpha=2 * self.rank, dropout=dropout, target_modules=["all-linear"])
        usual = {"global_batch": 32, "learning_rate": 2e-4, "max_tail": 16, "epochs": 1000, "max_steps": self.steps}
        return TrainConfig(**{"lora": lora, "seed": seed, "validation_rows": 256} | usual | changes)

    def prepared(self, seed: int, base: ModelConfig | None = None, **changes: Any) -> Run:
        """Return a run before its first step."""
        return prepare_run(self.settings(seed, **changes), base or self.base, self.shards, self.work / "unused")

    def trained(self, seed: int, products: str, initial: Weights) -> Weights:
        """Train from the initial adapter with the order, masks and dropout of a seed; return the adapter."""
        run = self.runs[products]
        set_peft_model_state_dict(run.model, initial)
        run.train, run.history = self.settings(seed, products=products), History()
        run.windows = TrainingWindows(read_split(self.shards, "train"), read_meta(self.shards), run.train)
        run.optimizer = make_optimizer(run.finetuning.parameters, run.train, run.share.device)
        run.checkpoints = self.work / f"{products}-{seed}"
        fit(run, Log(run.history, None, None))
        said = run.history.summary()
        seen = {name: round(said[name], 4) for name in ("first_loss", "last_loss", "seconds_per_step")}
        report("trained", seed=seed, products=products, **seen, plan=str(run.plan))
        return kept(run)

    def judged(self, weights: Weights) -> float:
        """Return the NLL bound of an adapter on the validation rows in bf16, in nats per response token."""
        run = self.runs["bf16"]
        set_peft_model_state_dict(run.model, weights)
        sums = validation_sums(run).tolist()
        return float(sums[0] / sums[1])

    def gradient(self, weights: Weights, base: ModelConfig, products: str) -> torch.Tensor:
        """Return the gradient of an adapter over the first windows, without dropout, flat, in float64 on the CPU."""
        run = self.prepared(0, base, products=products, dropout=0.0, compile=False, graphs=False)
        set_peft_model_state_dict(run.model, weights)
        run.model.train()
        for step in range(1, WINDOWS + 1):
            window = make_window(run, step)
            for batch in window.batches:
                forward_backward(run, batch, window.loss_tokens)
        gradients = [weight.grad for weight in run.finetuning.parameters if weight.grad is not None]
        return torch.cat([gradient.flatten().double().cpu() for gradient in gradients])


def compare(bench: Bench, arguments: argparse.Namespace) -> bool:
    """Train all pairs and print what the differences are; return whether their interval lies within the margin."""
    values = []
    for seed in range(arguments.seeds):
        initial = kept(bench.prepared(seed, compile=False, graphs=False))
        adapters = {products: bench.trained(seed, products, initial) for products in bench.runs}
        values.append([bench.judged(adapters[products]) for products in ("bf16", "fp8")])
        report("pair", seed=seed, before=bench.judged(initial), bf16=values[-1][0], fp8=values[-1][1])
        if seed == 0:
            say_errors(bench, adapters["bf16"])
    differences = [fp8 - bf16 for bf16, fp8 in values]
    low, high = interval(differences)
    within = -arguments.margin < low and high < arguments.margin
    spread = float(np.std([bf16 for bf16, _ in values], ddof=1))
    report(
        "fp8 - bf16, nats per token",
        mean=round(float(np.mean(differences)), 5),
        interval=[round(low, 5), round(high, 5)],
        pairs=len(values),
        seeds_apart_in_bf16=round(spread, 5),
        margin=arguments.margin,
        within=within,
    )
    return within


def say_errors(bench: Bench, weights: Weights) -> None:
    """Print how far the gradients of a trained adapter are from float32, in bf16 and in FP8."""
    exact = bench.gradient(weights, bench.base.model_copy(update={"dtype": "float32"}), "bf16")
    for products in ("bf16", "fp8"):
        found = bench.gradient(weights, bench.base, products)
        error = float((found - exact).norm() / exact.norm())
        cosine = float(torch.nn.functional.cosine_similarity(found, exact, dim=0))
        report("gradient against float32, trained", products=products, error=round(error, 4), cosine=round(cosine, 5))


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of the mean of some differences.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    half = float(scipy.stats.t.ppf(0.975, len(differences) - 1)) * float(np.std(differences, ddof=1))
    return (
        float(np.mean(differences)) - half / math.sqrt(len(differences)),
        float(np.mean(differences)) + half / math.sqrt(len(differences)),
    )


def kept(run: Run) -> Weights:
    """Return a copy of a run's adapter in the host's memory."""
    return {name: weight.detach().cpu().clone() for name, weight in run.finetuning.weights().items()}


if __name__ == "__main__":
    sys.exit(main())
