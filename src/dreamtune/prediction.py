"""Prediction of a training run's time. Torch-free, because jobs' time limits on a cluster rest on it too."""

import math
from typing import Any

from dreamtune.settings.train import TrainConfig


def training_tokens(train: TrainConfig, rows: int, mean_tokens: float) -> float:
    """Return the number of tokens that a run is expected to train on, tails included.

    That some rows are cut (`train.cut_share`), or stand alone in place of a pair (one in L with exact counts), is left
    out, so that such a run takes less time than predicted.

    Args:
        rows: number of rows in the training split.
        mean_tokens: mean tokens of a row, without its tail.
    """
    steps, used = train.total_steps(rows), min(train.rows or rows, rows)
    epochs, rest = divmod(steps, math.ceil(used / train.global_batch) or 1)
    halves = 2 if train.pairs_masks else 1
    documents = halves * (epochs * used + min(rest * train.global_batch, used))
    return documents * (mean_tokens + train.mean_tail)


def slowdown(smoke: dict[str, Any], processes: int) -> float:
    """Return the factor by which an optimiser step takes longer than in smoke; below 1 it is faster.

    The processes share a step's micro-batches, which are as large as smoke's: with more processes than micro-batches,
    the others are idle.

    Args:
        smoke: the smoke run's training.json.
        processes: number of processes, on all nodes, of the run that is predicted.

    Smoke took 5 micro-batches a step one after the other; four processes take two turns:

    >>> smoke = {"tokens": 80_000, "steps": 8, "ran_as": {"micro_batch_tokens": 2048}, "processes": 1}
    >>> slowdown(smoke, processes=4)
    0.4
    """
    micro_batches = math.ceil(smoke["tokens"] / smoke["steps"] / smoke["ran_as"]["micro_batch_tokens"])
    return math.ceil(micro_batches / processes) / math.ceil(micro_batches / smoke["processes"])
