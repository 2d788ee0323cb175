"""From shards to windows: the order of the documents, their masks, and how a window is split.

A window is the set of documents that one optimiser step sees: `global_batch` rows, fewer only at the end of an epoch.
It is a function of the step and the settings alone, so that a resumed run needs only the number of its step.
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
from dreamtune.objective.annealing import right_context
from dreamtune.objective.diffusion import Document, Draw, Noise, Noised, corrupt, corrupt_pair, mask_rates
from dreamtune.objective.packing import Batch, collate, split_window
from dreamtune.objective.rates import noises
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import Split, limited, sources_of
from dreamtune.sources.chosen_rows import chosen_rows
from dreamtune.train.documents import cut_length, make_beginning, make_document, tail_length, with_padding
from dreamtune.train.micro_batch_plan import MicroBatchPlan

VALIDATION_EPOCH = -1  # no training step has this epoch, so validation has its own masks, the same every time


@dataclass(frozen=True)
class Share:
    """The share of every window that this process computes, and its device."""

    process: int = 0  # rank, from 0
    processes: int = 1
    synchronous: bool = False  # every process runs equally many micro-batches, as FSDP's collectives need
    device: torch.device = torch.device("cpu")  # noqa: RUF009, immutable


@dataclass(frozen=True)
class Window:
    """The documents of one optimiser step: this process's micro-batches, and counts over the *whole* window."""

    step: int  # from 1
    epoch: int  # from 0
    batches: tuple[Batch, ...]  # this process's micro-batches
    loss_tokens: int  # denominator of the loss: response tokens and what their tails count for
    nll_tokens: int  # denominator of the reported bound, without tails; 0 where there is none, see `Noised`
    tokens: int  # tokens that run through the model, padding not counted
    tail_tokens: int = 0  # of these, tokens behind an end token
    cut_documents: int = 0  # documents of which only the beginning is shown
    source_tokens: tuple[int, ...] = ()  # `loss_tokens` of each source, where there are several
    right_context: int | None = None  # later tokens that each token attends to; None for all

    def annealed(self, right_context: int | None) -> "Window":
        """Return the window with this right context in all its micro-batches."""
        if right_context is None:
            return self
        batches = tuple(replace(batch, right_context=right_context) for batch in self.batches)
        return replace(self, batches=batches, right_context=right_context)


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the row numbers 0 to rows - 1 in the order in which an epoch visits them, [rows] int64.

    >>> epoch_order(5, seed=0, epoch=0).tolist(), epoch_order(5, seed=0, epoch=1).tolist()
    ([1, 3, 4, 2, 0], [2, 3, 1, 0, 4])
    """
    return np.argsort(counter_hash((Draw.ORDER, seed, epoch), np.arange(rows)), kind="stable")


def steps_per_epoch(rows: int, global_batch: int) -> int:
    """Return the number of windows that hold all rows once; the last window may be short.

    >>> steps_per_epoch(rows=10, global_batch=4)
    3
    """
    return math.ceil(rows / global_batch)


def dropout_seed(seed: int, step: int, batch: Batch) -> int:
    """Return the torch seed of a micro-batch's dropout, from the step and the micro-batch's first document.

    A seed for each micro-batch spares checkpoints the state of a random generator.
    """
    first = batch.noised[0]
    key = (Draw.DROPOUT, seed, step, first.document.example_id, int(first.noise.complement))
    return int(counter_hash(key, np.zeros(1))[0] >> np.uint64(1))


def micro_batches(window: Sequence[Noised], share: Share, plan: MicroBatchPlan) -> list[list[Noised]]:
    """Return the documents of each of this process's micro-batches of a window.

    The plan alone decides which documents stand together, and the processes take turns at the micro-batches. A process
    whose memory ran out cuts its own micro-batches further. Synchronous processes all get equally many: those that are
    missing are copies of the last one without targets, which change no sum.

    Three processes and a budget of 8 tokens, so that each of four documents of 5 tokens is a micro-batch by itself:

    >>> noise, plan = Noise("elbo", 1.0, seed=0, epoch=0, mask_id=9), MicroBatchPlan(8, 0, "packed", False)
    >>> window = [corrupt(Document(number, np.zeros(5, int), 1, 0), noise) for number in range(4)]
    >>> shares = [micro_batches(window, Share(process, 3, synchronous=True), plan) for process in range(3)]
    >>> [[int(noised.supervised.sum()) for [noised] in share] for share in shares]
    [[4, 4], [4, 0], [4, 0]]
    """
    every = split_window(window, plan.micro_batch_tokens)
    if share.synchronous:
        every += [[without_targets(noised) for noised in every[-1]]] * (-len(every) % share.processes)
    own = every[share.process :: share.processes]
    if plan.cut_tokens is None:
        return own
    return [cut for documents in own for cut in split_window(documents, plan.cut_tokens)]


def without_targets(noised: Noised) -> Noised:
    """Return a corrupted document of which no token is predicted: it runs through the model and changes no sum.

    Its tokens were counted where the document is predicted, so the reported bound must not be divided by them again.
    """
    nothing = np.zeros(len(noised.input_ids), np.float32)
    return replace(noised, supervised=nothing.astype(bool), weights=nothing, elbo_weights=nothing, nll_tokens=0)


def corrupted(train: TrainConfig, documents: Sequence[Document], noise: Sequence[Noise]) -> list[Noised]:
    """Return documents under their noise, in pairs where `train` says so."""
    masks = corrupt_pair if train.pairs_masks else lambda *given: [corrupt(*given)]
    return [noised for given in zip(documents, noise, strict=True) for noised in masks(*given)]


class TrainingWindows:
    """The windows of one training run; `window` makes one at a time.

    Args:
        split: the training split, of which `chosen_rows` chooses `train.rows` rows.
        meta: the content of shards.json.
        train: settings of the run.

    Attributes:
        used: numbers of the rows that are trained on, [rows].
        per_epoch: steps in which each of them is visited once.
        per_counted_epoch: steps of an epoch as `train.epochs` counts it; more than `per_epoch` where `train.epochs_of`
            is "all" and the run trains on some rows only.
        total: steps of the run.

    Raises:
        UserError: fewer rows than are to be drawn.
    """

    def __init__(self, split: Split, meta: dict[str, Any], train: TrainConfig) -> None:
        self.split, self.train, self.meta = split, train, meta
        self.sources: list[str] = [source["name"] for source in meta.get("sources", [])]
        self.ids: dict[str, int] = meta["tokenizer"]
        # Tails come on top: rows that fill max_tokens would otherwise never show room behind an answer.
        self.max_tokens: int = meta["max_tokens"] + train.longest_tail
        self.used = chosen_rows(split, meta, train)
        self.rows = len(self.used)
        self.per_epoch = steps_per_epoch(self.rows, train.global_batch)
        self.per_counted_epoch = train.steps_per_epoch(len(split))
        self.total = train.total_steps(len(split))
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def window(self, step: int, share: Share, plan: MicroBatchPlan) -> Window:
        """Return the window of a step, counted from 1, with this process's micro-batches on its device.

        All tokens of a document attend to each other in it; `right_context` says how far they do in this step.
        """
        noised = self.noised(step)
        batches = micro_batches(noised, share, plan)
        return Window(
            step=step,
            epoch=(step - 1) // self.per_epoch,
            batches=tuple(collate(documents, share.device) for documents in batches),
            loss_tokens=max(sum(document.loss_tokens for document in noised), 1),
            nll_tokens=sum(document.nll_tokens for document in noised),
            tokens=sum(len(document.input_ids) for document in noised),
            tail_tokens=sum(document.document.tail_tokens for document in noised),
            cut_documents=sum(document.document.cut for document in noised),
            source_tokens=tuple(
                sum(document.loss_tokens for document in noised if document.document.source == number)
                for number in range(len(self.sources))
            ),
        )

    def noised(self, step: int) -> list[Noised]:
        """Return the corrupted documents of a step; in pairs each document occurs twice, or alone at twice the weight.

        See `corrupt_pair`.
        """
        train, (epoch, place) = self.train, divmod(step - 1, self.per_epoch)
        places = np.arange(place * train.global_batch, min((place + 1) * train.global_batch, self.rows))
        documents = self._documents(self.order(epoch)[places], epoch)
        examples = [document.example_id for document in documents]
        return corrupted(train, documents, noises(train, places, examples, epoch, self.ids["mask_id"]))

    def right_context(self, step: int) -> int | None:
        """Return the later tokens that each token attends to in a step; None for all."""
        share = self.train.attention_annealing
        return right_context(step, self.total, share, self.longest) if share else None

    def by_source(self, sums: Sequence[float], window: Window) -> dict[str, list[float]]:
        """Return by source its sum of w * CE over a window, from `sums` [sources], and its loss tokens."""
        return {
            name: [total, tokens] for name, total, tokens in zip(self.sources, sums, window.source_tokens, strict=True)
        }

    @property
    def epochs(self) -> int:
        """Times that a row is trained on, the last of them perhaps not for all rows."""
        return self.train.epochs if self.train.epochs_of == "rows" else math.ceil(self.total / self.per_epoch)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row of the whole split, also of those beyond `train.rows`, without tails: [rows]."""
        return np.asarray(pyarrow.compute.list_value_length(self.split.table["input_ids"]))

    @property
    def longest(self) -> int:
        """Tokens of the longest document that the split can make, its longest tail included."""
        return int(self.lengths.max()) + self.train.longest_tail

    @property
    def documents(self) -> int:
        """Most documents of a full window; in pairs a row makes two, or one alone."""
        halves = 2 if self.train.pairs_masks else 1
        return halves * min(self.train.global_batch, self.rows)

    @property
    def window_tokens(self) -> float:
        """Mean number of tokens of a full window, tails included."""
        return self.documents * (float(self.lengths.mean()) + self.train.mean_tail)

    def stored(self, step: int) -> dict[int, Any]:
        """Return the rows of the shards from which a step's documents are made, by example_id."""
        epoch, place = divmod(step - 1, self.per_epoch)
        size = self.train.global_batch
        rows = self.order(epoch)[place * size : (place + 1) * size]
        return {row["example_id"]: row for row in (self.split[int(number)] for number in rows)}

    def order(self, epoch: int) -> np.ndarray:
        """Return this run's rows in the order of `epoch_order`; the last epoch's is kept."""
        if self._order[0] != epoch:
            self._order = (epoch, self.used[epoch_order(self.rows, self.train.seed, epoch)])
        return self._order[1]

    def _documents(self, rows: np.ndarray, epoch: int) -> list[Document]:
        columns = self.split[rows.tolist()]
        stored = ({name: values[number] for name, values in columns.items()} for number in range(len(rows)))
        documents = [self._document(row, epoch) for row in stored]
        if not self.sources:
            return documents
        numbers = sources_of(self.meta, np.array(columns["example_id"], np.int64)).tolist()
        return [replace(document, source=number) for document, number in zip(documents, numbers, strict=True)]

    def _document(self, row: dict[str, Any], epoch: int) -> Document:
        train, key = self.train, (self.train.seed, epoch, int(row["example_id"]))
        response = len(row["input_ids"]) - int(row["prompt_tokens"])
        if kept := cut_length(*key, response, train.cut_share):
            return make_beginning(row, kept)
        tail = tail_length(*key, train.max_tail, train.long_tail, train.long_tail_share)
        return with_padding(make_document(row, tail, self.ids["end_id"], self.max_tokens), train.padding_tokens)


def validation_batches(
    split: Split, meta: dict[str, Any], train: TrainConfig, share: Share, plan: MicroBatchPlan
) -> Iterator[Batch]:
    """Yield this process's micro-batches of `train.validation_rows` rows, under masks that never change.

    Rows have no tails and, whatever the trained objective, are masked for the 1/t bound, with one stratified t each.
    For a causal model nothing is masked, and the bound is the likelihood itself.

    Args:
        split: the validation split, of which `shards.limited` chooses the rows.
        meta: the content of shards.json.
        train: settings of the run.
        share: this process's.
        plan: how rows are split into micro-batches.
    """
    rows = limited(meta, len(split), train.validation_rows) if train.validation_rows else np.zeros(0, np.int64)
    rates = mask_rates(np.arange(len(rows)), train.seed, VALIDATION_EPOCH)
    mask_id, end_id = (meta["tokenizer"][name] for name in ("mask_id", "end_id"))
    objective = "causal" if train.objective == "causal" else "elbo"
    noised = [
        corrupt(
            make_document(split[row], 0, end_id, meta["max_tokens"]),
            Noise(objective, float(rate), train.seed, VALIDATION_EPOCH, mask_id),
        )
        for row, rate in zip(rows.tolist(), rates, strict=True)
    ]
    for batch in micro_batches(noised, share, plan):
        yield collate(batch, share.device)
