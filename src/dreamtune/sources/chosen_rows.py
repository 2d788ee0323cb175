"""Which rows of the training split a run trains on, where `train.rows` limits their number."""

from typing import Any

import numpy as np

from dreamtune.errors import UserError
from dreamtune.noise import counter_hash
from dreamtune.settings.train import TrainConfig
from dreamtune.shards import Split, limited


def chosen_rows(split: Split, meta: dict[str, Any], train: TrainConfig) -> np.ndarray:
    """Return the numbers of the rows of the training split that a run trains on, [n] int64, ascending.

    Args:
        split: the training split.
        meta: the content of shards.json.
        train: settings of the run.

    Raises:
        UserError: more rows are to be drawn than there are.
    """
    if train.rows is None or train.rows_by == "order":
        return limited(meta, len(split), train.rows)
    check_enough(split, train)
    return drawn(np.asarray(split.table["example_id"]), train.rows, train.rows_seed)


def check_enough(split: Split, train: TrainConfig) -> None:
    """Check that the split has as many rows as a run draws: otherwise two data sizes would be one.

    Raises:
        UserError: it has fewer.
    """
    if train.rows is not None and train.rows_by == "draw" and train.rows > len(split):
        raise UserError(
            f"train.rows is {train.rows}, and the training split has {len(split)} rows to draw from; name a smaller "
            "data size, or all"
        )


def drawn(example_ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the places of `count` examples, drawn by their ids and a seed alone, [count] int64, ascending.

    Each smaller draw lies inside each larger one with the same seed, and the order of the examples does not matter.

    >>> ids = np.arange(100)
    >>> drawn(ids, 4, seed=0).tolist(), drawn(ids, 2, seed=0).tolist(), drawn(ids, 2, seed=1).tolist()
    ([38, 47, 51, 67], [47, 51], [72, 79])
    """
    keys = counter_hash((seed,), example_ids)
    return np.sort(np.argsort(keys, kind="stable")[:count]).astype(np.int64)
