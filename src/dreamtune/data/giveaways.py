"""Counts of the questions that give their answer away, by split and by how they do it."""

from collections import Counter
from typing import Any

import numpy as np

from dreamtune.contamination.giveaway import WHAT

EXAMPLES = 5  # example ids given for each way


class Giveaways:
    """Notes which rows' questions give their answer away.

    Attributes:
        heldout: how a held-out question does it, by example id.
    """

    def __init__(self) -> None:
        self.heldout: dict[int, str] = {}
        self._rows: Counter[str] = Counter()  # by split
        self._ways: dict[str, dict[str, Any]] = {way: {"rows": 0, "examples": []} for way in WHAT}

    def note(self, split: str, ids: np.ndarray, ways: np.ndarray) -> None:
        """Note rows of a split that give their answer away; `ids` [n] int64, and how they do it, `ways` [n] object."""
        for row, way in zip(ids.tolist(), ways.tolist(), strict=True):
            self._rows[split] += 1
            self._ways[way]["rows"] += 1
            if len(self._ways[way]["examples"]) < EXAMPLES:
                self._ways[way]["examples"].append(row)
            if split != "train":
                self.heldout[row] = way

    def counts(self) -> dict[str, Any]:
        """Return the rows concerned in each split, and each way's rows and first example ids."""
        return {f"{split}_rows": self._rows[split] for split in ("train", "validation", "test")} | self._ways
