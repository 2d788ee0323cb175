"""Which rows of a source train, and how often: `where`, `rows` and `weight` of `data.sources`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamtune.errors import UserError
from dreamtune.noise import uniforms
from dreamtune.settings.data import DataSource
from dreamtune.sources.where import Where

TAKEN, NOT_SELECTED, OVER_LIMIT = range(3)
REASONS = ("", "not_selected", "over_row_limit")  # by these numbers: why a row is dropped
DRAW = 0x5A  # sets these draws apart from others with the same seed
NOT_DRAWN = "not_drawn"  # dropped by a weight that is no whole number


@dataclass(frozen=True)
class Choice:
    """What a source's settings choose of its rows.

    Attributes:
        source: the settings.
        states: [rows] uint8, an index into REASONS for each row of the source.
        seed: of the draw for a weight that is no whole number.
    """

    source: DataSource
    states: np.ndarray
    seed: int

    def copies(self, rows: np.ndarray) -> np.ndarray:
        """Return how often each training row is shown in an epoch, [n] int64; `rows` [n] counts from 0 in the source.

        The fraction of a weight is drawn for each row by seed and row alone, so that further rows change no draw:

        >>> choice = Choice(DataSource(files=["a"], weight=1.5), np.zeros(6, np.uint8), seed=0)
        >>> choice.copies(np.arange(6)).tolist()
        [1, 2, 1, 2, 1, 2]
        """
        whole = int(self.source.weight)
        draws = uniforms((self.seed, DRAW), rows)
        return whole + (draws < self.source.weight - whole).astype(np.int64)


def choose(source: DataSource, files: Sequence[Path], counts: Sequence[int], seed: int) -> Choice:
    """Return the choice of a source's rows; reads the columns that `where` names.

    Args:
        source: the settings.
        files: its files, in order.
        counts: number of rows of each.
        seed: data.split.seed.

    Raises:
        UserError: `where` is no condition for these rows, or keeps none of them.
    """
    states = np.zeros(sum(counts), np.uint8)
    if source.where is not None:
        condition = Where(source.where)
        states[~np.concatenate([condition.rows_of(path) for path in files])] = NOT_SELECTED
        if (states == NOT_SELECTED).all():
            raise UserError(
                f"data.sources, {source.name}: where {source.where!r} keeps none of the {len(states):,} rows of "
                f"{files[0]}{' …' if len(files) > 1 else ''}"
            )
    if source.rows is not None:
        states[np.flatnonzero(states == TAKEN)[source.rows :]] = OVER_LIMIT
    return Choice(source, states, seed)
