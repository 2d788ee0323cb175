"""From shards to windows: the order of the documents, their tails, their noise, and how a window is split.

A window is what one optimiser step sees: `global_batch` documents, fewer only at the end of an epoch. It is a function
of the step and the settings alone, so that a resumed run needs nothing but its step to go on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute
import torch

from dreamtune.noise import counter_hash
from dreamtune.objective.diffusion import MIN_RATE, Document, Draw, Noise, Noised, corrupt, mask_rates
from dreamtune.objective.packing import Batch, collate, split_window
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import Split
from dreamtune.train.micro_batch_plan import MicroBatchPlan

VALIDATION_EPOCH = -1  # an epoch no training step has: the masks of validation are its own, and always the same


@dataclass(frozen=True)
class Share:
    """Which part of every window this process takes, and where it computes."""

    process: int = 0
    processes: int = 1
    lockstep: bool = False  # every process takes as many passes as any other: they gather the weights together
    device: torch.device = torch.device("cpu")  # noqa: RUF009, immutable


@dataclass(frozen=True)
class Window:
    """One optimiser step's documents: this process's batches, and the sums over *all* of the window."""

    step: int
    epoch: int
    batches: tuple[Batch, ...]
    loss_tokens: int  # denominator of the loss
    nll_tokens: int  # denominator of the reported bound; 0 where nothing was hidden
    tokens: int  # tokens that pass the model, padding not counted


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the rows 0 ... rows - 1 in the order in which this epoch visits them, [rows] int64."""
    return np.argsort(counter_hash((Draw.ORDER, seed, epoch), np.arange(rows)), kind="stable")


def steps_per_epoch(rows: int, global_batch: int) -> int:
    """Return how many windows hold all rows once; the last may be short."""
    return math.ceil(rows / global_batch)


def tail_length(seed: int, epoch: int, example_id: int, max_tail: int) -> int:
    """Return how many end tokens follow the first, 0 to max_tail, all alike likely."""
    return int(counter_hash((Draw.TAIL, seed, epoch, example_id), np.zeros(1))[0] % np.uint64(max_tail + 1))


def dropout_seed(seed: int, step: int, batch: Batch) -> int:
    """Return the torch seed of one forward pass; the batch is known by its first row, so that no generator's state
    has to be carried from one process to the one that resumes it."""
    first = batch.rows[0]
    key = (Draw.DROPOUT, seed, step, first.document.example_id, int(first.noise.complement))
    return int(counter_hash(key, np.zeros(1))[0] >> np.uint64(1))


def passes(rows: Sequence[Noised], share: Share, plan: MicroBatchPlan) -> list[list[Noised]]:
    """Return the documents of each of this process's forward passes.

    Which documents stand together is the plan's alone, whatever the number of processes; only where this process's
    memory ran out are its own passes cut further.
    """
    together = split_window(rows, plan.micro_batch_tokens)
    if share.lockstep:
        together += [[idle(row) for row in together[-1]]] * (-len(together) % share.processes)
    mine = together[share.process :: share.processes]
    if plan.cut_tokens is None:
        return mine
    return [part for documents in mine for part in split_window(documents, plan.cut_tokens)]


def idle(row: Noised) -> Noised:
    """Return the same document with nothing in it to predict: it passes the model, and adds nothing to any sum."""
    nothing = np.zeros(len(row.input_ids), np.float32)
    return replace(row, supervised=nothing.astype(bool), weights=nothing, elbo_weights=nothing)


def make_document(row: dict[str, Any], tail_tokens: int, end_id: int, max_tokens: int) -> Document:
    """Append the tail to a row of the shards. A cut answer (not `complete`) must not teach the model to stop there."""
    tail = min(tail_tokens, max_tokens - len(row["input_ids"])) if row["complete"] else 0
    tokens = np.asarray(row["input_ids"], np.int64)
    return Document(
        example_id=int(row["example_id"]),
        tokens=np.concatenate([tokens, np.full(max(tail, 0), end_id, np.int64)]),
        prompt_tokens=int(row["prompt_tokens"]),
        tail_tokens=max(tail, 0),
    )


class TrainingWindows:
    """The windows of one training run, each made when it is asked for.

    Args:
        split: the training split; only its first `train.rows` rows are used.
        meta: shards.json.
    """

    def __init__(self, split: Split, meta: dict[str, Any], train: TrainConfig) -> None:
        self.split, self.train = split, train
        self.ids: dict[str, int] = meta["tokenizer"]
        self.max_tokens: int = meta["max_tokens"]
        self.rows = min(train.rows or len(split), len(split))
        self.per_epoch = steps_per_epoch(self.rows, train.global_batch)
        self.total = min(self.per_epoch * train.epochs, train.max_steps or self.per_epoch * train.epochs)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def window(self, step: int, share: Share, plan: MicroBatchPlan) -> Window:
        """Return the window of `step` (from 1), with this process's share of its batches."""
        noised = self.noised(step)
        batches = passes(noised, share, plan)
        return Window(
            step=step,
            epoch=(step - 1) // self.per_epoch,
            batches=tuple(collate(rows, share.device) for rows in batches),
            loss_tokens=max(sum(row.loss_tokens for row in noised), 1),
            nll_tokens=sum(row.nll_tokens for row in noised),
            tokens=sum(len(row.input_ids) for row in noised),
        )

    def noised(self, step: int) -> list[Noised]:
        """Return the corrupted documents of a step; with complementary masks each document stands there twice."""
        train, (epoch, place) = self.train, divmod(step - 1, self.per_epoch)
        places = np.arange(place * train.global_batch, min((place + 1) * train.global_batch, self.rows))
        # With a pair, 1 - t must not vanish either: it is the rate, and its inverse the weight, of the second half.
        rates = mask_rates(places, train.seed, epoch, highest=1 - MIN_RATE if train.complementary else 1.0)
        documents = self._documents(self.order(epoch)[places], epoch)
        halves = (False, True) if train.pairs_masks else (False,)
        return [
            corrupt(
                document,
                Noise(train.objective, float(rate), train.seed, epoch, self.ids["mask_id"], complement=half),
            )
            for document, rate in zip(documents, rates, strict=True)
            for half in halves
        ]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Stored length in tokens of each row of the split, without its tail, those beyond `rows` included."""
        return np.asarray(pyarrow.compute.list_value_length(self.split.table["input_ids"]))

    @property
    def longest(self) -> int:
        """Tokens of the longest document that the split can give."""
        return int(min(self.lengths.max() + self.train.max_tail, self.max_tokens))

    @property
    def documents(self) -> int:
        """Documents of a full window; with complementary masks each row makes two."""
        halves = 2 if self.train.pairs_masks else 1
        return halves * min(self.train.global_batch, self.rows)

    @property
    def window_tokens(self) -> float:
        """Mean tokens of a full window, tails included."""
        return self.documents * (float(self.lengths.mean()) + self.train.max_tail / 2)

    def stored(self, step: int) -> dict[int, Any]:
        """Return the rows of the shards that a step's documents were made from, by example_id."""
        epoch, place = divmod(step - 1, self.per_epoch)
        size = self.train.global_batch
        rows = self.order(epoch)[place * size : (place + 1) * size]
        return {row["example_id"]: row for row in (self.split[int(number)] for number in rows)}

    def order(self, epoch: int) -> np.ndarray:
        """Return `epoch_order`, remembering the last one."""
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.rows, self.train.seed, epoch))
        return self._order[1]

    def _documents(self, rows: np.ndarray, epoch: int) -> list[Document]:
        train = self.train
        columns = self.split[rows.tolist()]
        return [
            make_document(
                {name: values[number] for name, values in columns.items()},
                tail_length(train.seed, epoch, columns["example_id"][number], train.max_tail),
                self.ids["end_id"],
                self.max_tokens,
            )
            for number in range(len(rows))
        ]


def validation_batches(
    split: Split, meta: dict[str, Any], train: TrainConfig, share: Share, plan: MicroBatchPlan
) -> Iterator[Batch]:
    """Yield this process's part of the first `validation_rows` rows, without tails and under masks that never change.

    Whatever is trained, these are masked for the 1/t bound: one stratified rate per row.
    """
    rows = min(train.validation_rows, len(split))
    rates = mask_rates(np.arange(rows), train.seed, VALIDATION_EPOCH)
    mask_id, end_id = (meta["tokenizer"][name] for name in ("mask_id", "end_id"))
    noised = [
        corrupt(
            make_document(split[row], 0, end_id, meta["max_tokens"]),
            Noise("elbo", float(rates[row]), train.seed, VALIDATION_EPOCH, mask_id),
        )
        for row in range(rows)
    ]
    for batch in passes(noised, share, plan):
        yield collate(batch, share.device)
