"""The longest row that trains on cards of 8, 12, 16 and 24 GB, in Dream 7B's shape, and what the plan predicts.

NF4, LoRA of rank 32 on all linear layers, one row a micro-batch, all layers recomputed, packed weights: the plan that
takes least memory. The card's limit is enforced (`train.memory_gib`, as in train_throughput.py). Whether a length fits
is decided by training's own rehearsal, with the optimiser's state in memory; the longest length that fits then runs
the canaries and two optimiser steps. It is found to a 16th. Where the plan's estimate allows less, a training of longer
rows is refused before it begins: `trains` is the smaller of the two. One model is loaded, and serves all cards.

Weights are random, so nothing is said about quality. One line of JSON per card, then a table.

usage   python benchmarks/longest_row.py --work /tmp/seven_b
        ... --toy                    a small model, without a GPU: the memory is pretended, shows only that it runs
"""

import argparse
import bisect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _src  # noqa: F401, puts src on the path
import numpy as np
import torch
from seven_b_shape import IDS, TOY_IDS, report, write_shards
from train_throughput import Bench

from dreamtune.device.memory import GIB, RESERVE_GIB, limit_memory, peak_gib, watch
from dreamtune.errors import UserError
from dreamtune.model.logits import unwrap
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train import micro_batches
from dreamtune.train.canaries import run_canaries
from dreamtune.train.log import History
from dreamtune.train.micro_batch_plan import Shape, extra_gib
from dreamtune.train.micro_batches import rehearse
from dreamtune.train.run import Run, open_log, prepare_run
from dreamtune.train.steps import fit
from dreamtune.train.windows import TrainingWindows

CARDS = (8, 12, 16, 24)  # GB
BESIDE = 1.0  # GB of a card that torch cannot have: the driver's context, other programs
LORA = LoraSettings(rank=32, alpha=64, dropout=0.05, target_modules=["all-linear"])
STEP = 64  # tokens; the lengths that are tried are multiples of it
MOST = 2**17
FIRST = 256  # tokens of the rows with which everything is compiled, and the optimiser's state made
STEPS = 2
TOY_TOKENS_PER_GIB = 20  # a toy's rows have at most so many for each GiB of its pretended card


def main() -> None:
    """Find the longest row for each card, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint (15 GB) and outputs")
    parser.add_argument("--cards", type=int, nargs="*", default=CARDS, help="memory of the cards in GB")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU, with a pretended memory")
    arguments = parser.parse_args()
    bench = LongestRow(arguments.work, arguments.toy)
    print(table([bench.card(card) for card in sorted(arguments.cards)]))


class LongestRow:
    """A training that is prepared once, and rehearsed with rows of every length and under every limit."""

    def __init__(self, work: Path, toy: bool) -> None:
        bench = Bench(work, toy, STEPS, None)
        self.toy, self.most = toy, 1024 if toy else MOST
        self.folder = work / f"longest_row_{time.time_ns()}"
        self.train = TrainConfig(
            lora=LORA,
            global_batch=1,
            epochs=1,
            max_tail=0,
            validation_rows=0,
            recompute_layers=10_000,
            weights="packed",
            compile=not toy,  # as in a run of hours
            graphs=False,
            log_every=1,
        )
        self.run: Run = prepare_run(self.train, bench.base(), self.shards(FIRST), self.folder / "work")
        self.device = self.run.share.device
        self.limit_gib = float("inf")
        self.corrected = 1.0  # the longest row over the one that the plan allowed, on the card before
        if toy:
            self._pretend_memory()
        start = time.perf_counter()
        self.train_rows(FIRST)
        held = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        self.held_gib = (held + sum(4 * weight.numel() for weight in self.run.finetuning.parameters)) / GIB
        report("ready", held_gib=round(self.held_gib, 2), compiling_s=round(time.perf_counter() - start, 1))

    def card(self, gb: int) -> dict[str, Any]:
        """Return the longest row of a card, what it took, and what the plan predicts; all lengths in tokens."""
        start, probes = time.perf_counter(), dict[int, bool]()
        self.limit_gib = gb - BESIDE
        limit_memory(self.device, self.limit_gib)

        def fits(tokens: int) -> bool:
            probes[tokens] = self.fits(tokens)
            return probes[tokens]

        planned = self.planned()
        longest = longest_row(fits, round(planned * self.corrected), self.most)
        proven = {}
        while longest and not (proven := self.proven(longest)):  # canaries or steps took more than the rehearsal
            probes[longest] = False
            longest = longest * 15 // 16 // STEP * STEP
        self.corrected = longest / planned if longest and planned else self.corrected
        values = {
            "card": f"{gb} GB",
            "limit_gib": self.limit_gib,
            "trains": min(longest, planned),
            "longest": longest,
            "plan_allows": planned,
            **proven,
            "predicted_gib": round(self.predicted_gib(longest), 2) if longest else None,
            "probes": len(probes),
            "shortest_that_did_not_fit": min((tokens for tokens, fitted in probes.items() if not fitted), default=None),
            "wall_s": round(time.perf_counter() - start, 1),
        }
        report("longest row", **values)
        return values

    def predicted_gib(self, tokens: int) -> float:
        """Return the peak that the plan predicts for rows of so many tokens."""
        plan = replace(self.run.plan, micro_batch_tokens=tokens)
        return self.held_gib + extra_gib(Shape.of(self.run.model), plan, tokens)

    def planned(self) -> int:
        """Return the longest row for which the plan finds room under the card's limit; 0 for none."""
        lengths = range(STEP, self.most + 1, STEP)
        place = bisect.bisect_right(lengths, self.limit_gib - RESERVE_GIB, key=self.predicted_gib)
        return lengths[place - 1] if place else 0

    def fits(self, tokens: int) -> bool:
        """Return whether the rehearsal of a row of so many tokens fits into the card's memory."""
        row = {"longest": tokens, "lengths": np.array([tokens]), "documents": 1, "ids": TOY_IDS if self.toy else IDS}
        self.run.windows = SimpleNamespace(**row, train=self.train, sources=[])  # type: ignore[assignment]
        self.run.plan = replace(self.run.plan, micro_batch_tokens=tokens, cut_tokens=None)
        torch.cuda.empty_cache()
        try:
            rehearse(self.run)
        except UserError:  # there is no smaller plan
            return False
        return True

    def proven(self, tokens: int) -> dict[str, Any]:
        """Return memory and time of canaries and steps with rows of so many tokens; {} if they do not fit."""
        torch.cuda.empty_cache()
        watch(self.device)
        try:
            seconds = self.train_rows(tokens)
            steps_gib = peak_gib(self.device)
            watch(self.device)
            run_canaries(self.run, "last_window")
        except (UserError, torch.OutOfMemoryError) as error:
            report("rehearsed, and did not train", tokens=tokens, why=str(error).splitlines()[0])
            self.run.optimizer.zero_grad()
            return {}
        return {
            "peak_gib": round(steps_gib, 2),
            "canaries_gib": round(peak_gib(self.device), 2),
            "tokens_per_s": round(tokens / seconds, 1),
        }

    def train_rows(self, tokens: int) -> float:
        """Run the two steps of a training on rows of so many tokens; return the seconds of the second."""
        run, shards, out = self.run, self.shards(tokens), self.folder / f"out_{tokens}_{time.time_ns()}"
        out.mkdir(parents=True)
        run.windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), self.train)
        run.plan = replace(run.plan, micro_batch_tokens=tokens, cut_tokens=None)
        run.history, run.checkpoints = History(), out / "checkpoints"
        fit(run, open_log(run, out, out))
        assert run.history.step == STEPS and run.plan.cut_tokens is None
        lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        return float(lines[-1]["wall_s"] - lines[-2]["wall_s"])

    def shards(self, tokens: int) -> Path:
        """Return shards of as many rows as there are steps."""
        folder = self.folder / f"shards_{tokens}"
        return folder if folder.exists() else write_shards(folder, [tokens] * STEPS, TOY_IDS if self.toy else IDS)

    def _pretend_memory(self) -> None:
        forward_backward = micro_batches.forward_backward

        def limited(run: Run, batch: Any, loss_tokens: Any) -> Any:
            if len(batch.input_ids) > TOY_TOKENS_PER_GIB * self.limit_gib:
                raise torch.OutOfMemoryError("pretended")
            return forward_backward(run, batch, loss_tokens)

        micro_batches.forward_backward = limited
        assert self.run.plan.recompute_layers == len(unwrap(self.run.model).model.layers)


def longest_row(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """Return the longest row that fits, in tokens, to a 16th; 0 if not even one of `STEP` tokens does.

    Away from the guess the distance doubles until one length fits and another does not; then it is halved.

    Args:
        fits: whether a length, a multiple of `STEP`, fits.
        guess: length to begin with.
        most: longest length that is tried, a multiple of `STEP`.

    >>> tried = []
    >>> longest_row(lambda tokens: tried.append(tokens) or tokens <= 5000, guess=4100, most=100_000)
    4864
    >>> tried
    [4096, 4352, 4864, 5888, 5376, 5120]
    """
    low, high = 0, most + STEP  # the first fits, the second does not
    tokens = min(max(guess // STEP, 1) * STEP, most)
    jump = max(guess // 16, STEP)
    while True:
        low, high = (tokens, high) if fits(tokens) else (low, tokens)
        if high - low <= max(STEP, low // 16):
            return low
        tokens = low + jump if high > most else high - jump if low == 0 else (low + high) // 2
        tokens = min(max(tokens // STEP * STEP, low + STEP), high - STEP)
        jump *= 2


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the cards as a table in Markdown."""
    columns = ("card", "limit_gib", "trains", "longest", "plan_allows", "peak_gib", "canaries_gib", "predicted_gib")
    heads = ("card", "limit GiB", "longest row that trains", "by memory alone", "by the plan", "peak GiB in steps")
    lines = [f"| {' | '.join((*heads, 'in canaries', 'predicted'))} |", "|---" * len(columns) + "|"]
    for values in found:
        cells = [values.get(name) for name in columns]
        lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
