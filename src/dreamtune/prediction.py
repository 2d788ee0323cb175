"""How long a training run will take. Torch-free: what a job asks a batch system for rests on it too."""

import math
from typing import Any

from dreamtune.settings.train import TrainConfig


def training_tokens(train: TrainConfig, rows: int, mean_tokens: float) -> float:
    """Return the expected tokens of a run, tails included.

    Args:
        rows: of the training split.
        mean_tokens: of a row, without its tail.
    """
    rows = min(train.rows or rows, rows)
    per_epoch = math.ceil(rows / train.global_batch)
    steps = min(per_epoch * train.epochs, train.max_steps or per_epoch * train.epochs)
    halves = 2 if train.pairs_masks else 1
    documents = halves * min(steps * train.global_batch, rows * train.epochs)
    return documents * (mean_tokens + train.max_tail / 2)


def slowdown(smoke: dict[str, Any], processes: int) -> float:
    """Return how many times as long as in smoke a window takes on so many processes.

    They take turns at its passes, which smoke's plan has made: beyond one for each, more processes gain nothing.

    Args:
        smoke: its training.json.
        processes: of the run that is predicted, on all nodes.
    """
    passes = math.ceil(smoke["tokens"] / smoke["steps"] / smoke["ran_as"]["micro_batch_tokens"])
    return math.ceil(passes / processes) / math.ceil(passes / smoke["processes"])
