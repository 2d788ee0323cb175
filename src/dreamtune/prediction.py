"""How many tokens a training run will take. Torch-free: what a job asks a batch system for rests on it too."""

import math

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
    halves = 2 if train.complementary and train.objective != "copy" else 1
    documents = halves * min(steps * train.global_batch, rows * train.epochs)
    return documents * (mean_tokens + train.max_tail / 2)
