"""The same rows through Hugging Face's Trainer with PEFT and bitsandbytes, as a user would write it, and through ours.

The Trainer's side: NF4 layers with double quantisation, LoRA at the same places, SDPA attention in both directions over
a padding mask, activation checkpointing without re-entry, bf16 autocast, rows padded to the longest of a batch, and the
loss of masked diffusion as dllm's trainer has it (one mask rate per row, 1/t as weight, cross entropy at the masked
positions; Nie et al. 2025, arXiv 2502.09992, eq. 3). Ours is `train_adapter`, as the workflow runs it. Dream 7B's
shape with random weights: nothing is said about quality. Tokens that are padding do not count.

usage   python benchmarks/trainer_baseline.py --work /tmp/seven_b
        ... --toy                    a small model, without a GPU, in seconds: shows only that the benchmark runs
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from notebook_recipe import qlora_model
from seven_b_shape import IDS, TOY_IDS, report
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from train_throughput import Bench, start_anew
from transformers import Trainer, TrainerCallback, TrainingArguments

BATCH = 8  # rows of an optimiser step, in one forward pass where they fit
WARM_UP = 3  # optimiser steps that are not counted
TARGET = 3.0  # x the Trainer's tokens per second, on GSM8K's lengths
ATTENTION_ONLY = ("q_proj", "v_proj")
ALL_LINEAR = (*ATTENTION_ONLY, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Case:
    """Rows and adapter of one comparison, and how many rows the Trainer puts into a forward pass."""

    lengths: Sequence[int]
    modules: Sequence[str]
    per_pass: int = BATCH


def main() -> int:
    """Measure both sides of each case in one run and print the ratios; with --check return 1 where one is too low."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and outputs")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU")
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of 8 rows on each side")
    parser.add_argument("--only", nargs="*", help="cases to compare; all if not given")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is below its target")
    arguments = parser.parse_args()
    bench = Bench(arguments.work, arguments.toy, arguments.steps, None)
    long = [4096 // bench.scale] * BATCH * bench.steps
    cases = {
        "GSM8K lengths": Case(bench.gsm8k(BATCH * bench.steps), ATTENTION_ONLY),
        "1,024 tokens": Case([1024 // bench.scale] * BATCH * bench.steps, ATTENTION_ONLY),
        "4,096 tokens, all-linear": Case(long, ALL_LINEAR, per_pass=2),
    }
    lines, missed = ["| rows | Trainer tokens/s | GiB | ours tokens/s | GiB | ratio |", "|---" * 6 + "|"], False
    for name, case in cases.items():
        if arguments.only and name not in arguments.only:
            continue
        theirs = trainer(bench, name, case)
        ours = bench.ours(name, case.lengths, {"lora": bench.lora(case.modules)})
        ratio = ours["tokens_per_s"] / theirs["tokens_per_s"]
        missed |= name == "GSM8K lengths" and ratio < TARGET
        cells = [f"{v['tokens_per_s']:,.0f} | {v['peak_gib'] or 0:.1f}" for v in (theirs, ours)]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.1f} |")
    print("\n".join(lines))
    return 1 if arguments.check and missed and not arguments.toy else 0


def trainer(bench: Bench, name: str, case: Case) -> dict[str, Any]:
    """Train with Hugging Face's Trainer; return tokens per second after the warm-up, and the peak memory."""
    start_anew(bench.device)
    special = TOY_IDS if bench.toy else IDS
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, special["mask_id"] - 1, (n,), generator=draw) for n in case.lengths]
    clock = Clock(bench.device)
    arguments = TrainingArguments(
        output_dir=str(bench.work / f"trainer_{name.replace(' ', '_')}"),
        per_device_train_batch_size=case.per_pass,
        gradient_accumulation_steps=BATCH // case.per_pass,
        num_train_epochs=1,
        learning_rate=2e-5,
        bf16=not bench.toy,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=bench.toy,
    )
    training = DiffusionTrainer(
        model=qlora_model(Path(bench.base().path), case.modules, bench.device, "sdpa", reentrant=False),
        args=arguments,
        train_dataset=[{"input_ids": row} for row in rows],
        data_collator=lambda batch: pad(batch, special),
        callbacks=[clock],
    )
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    training.train()
    values = {
        "tokens_per_s": sum(case.lengths[BATCH * WARM_UP :]) / (clock.ends[-1] - clock.ends[WARM_UP - 1]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else None,
        "steps": len(clock.ends),
    }
    report(f"Trainer, {name}", **values)
    return values


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each optimiser step is done."""

    def __init__(self, device: str) -> None:
        self.device, self.ends = device, list[float]()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Wait for the GPU, and note the time."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class DiffusionTrainer(Trainer):  # type: ignore[misc]
    """The Trainer with the loss of masked diffusion, as an NELBO per token of the batch."""

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # in order, as ours, so that the tokens of a step are known

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *arguments: Any, **named: Any) -> Tensor:
        """Mask each row at a rate of its own and return the weighted cross entropy at the masked positions."""
        ids, visible = inputs["input_ids"], inputs["attention_mask"]
        rate = torch.rand(len(ids), 1, device=ids.device) * 0.999 + 0.001
        masked = (torch.rand(ids.shape, device=ids.device) < rate) & visible
        both_ways = visible[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        logits = model(input_ids=ids.masked_fill(masked, inputs["mask_id"]), attention_mask=both_ways).logits
        # Dream's head is shifted: row i - 1 scores token i.
        losses = cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = (masked / rate)[:, 1:]
        return (losses.view_as(weights) * weights).sum() / visible.sum()


def pad(batch: Sequence[Mapping[str, Tensor]], special: Mapping[str, int]) -> dict[str, Any]:
    """Pad rows to the longest of the batch: [rows, longest]."""
    rows = [row["input_ids"] for row in batch]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=special["pad_id"])
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.arange(ids.shape[1])[None] < lengths[:, None],
        "mask_id": special["mask_id"],
    }


if __name__ == "__main__":
    sys.exit(main())
