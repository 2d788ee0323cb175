"""From which of several sources each document comes, how often it trains, and counts by source.

Sources lie one behind the other, so the number of a document, its example id, tells its source. A copy that a weight
adds has the id of its row plus a multiple of COPY, so that it gets masks of its own.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dreamtune.formats.shards import COPY
from dreamtune.sources.choice import REASONS, Choice


class Origins:
    """Counts what becomes of the documents of several sources while they are written.

    Args:
        choices: of each source.
        starts: number of each source's first document, and of all documents.
        rows: number of each source's first row, and of all rows.
    """

    def __init__(self, choices: Sequence[Choice], starts: Sequence[int], rows: Sequence[int]) -> None:
        self.choices, self.starts, self.rows = choices, np.asarray(starts), np.asarray(rows)
        self._written = [Counter[int]() for _ in choices]
        self._copies = np.zeros(len(choices), np.int64)
        self._dropped = [Counter[str]() for _ in choices]
        self._overlapping = np.zeros(len(choices), np.int64)

    def not_taken(self, rows: np.ndarray) -> np.ndarray:
        """Return why documents are dropped before anything else, [documents] object, "" for those that are taken.

        Args:
            rows: [documents], the row of each, ascending.
        """
        states = np.zeros(len(rows), np.uint8)
        for which, choice in enumerate(self.choices):
            own = self._own(rows, self.rows, which)
            states[own] = choice.states[rows[own] - self.rows[which]]
        return np.array(REASONS, object)[states]

    def copies(self, rows: np.ndarray) -> np.ndarray:
        """Return how often training documents are shown in an epoch, [documents] int64; see `not_taken`."""
        found = np.zeros(len(rows), np.int64)
        for which, choice in enumerate(self.choices):
            own = self._own(rows, self.rows, which)
            found[own] = choice.copies(rows[own] - self.rows[which])
        return found

    def note(self, ids: np.ndarray, splits: np.ndarray, dropped: np.ndarray) -> None:
        """Count the documents of a batch by source: those dropped by reason, the others by the number of their split.

        Args:
            ids, splits, dropped: [documents] example ids, ascending; splits; reasons, "" for those that are written.
        """
        for which in range(len(self.choices)):
            own = self._own(ids, self.starts, which)
            self._dropped[which].update(dropped[own][dropped[own] != ""].tolist())
            self._written[which].update(splits[own][dropped[own] == ""].tolist())

    def note_copies(self, ids: np.ndarray) -> None:
        """Count training examples that repeat documents, by the documents' ids."""
        self._copies += np.histogram(ids, self.starts)[0]

    def note_overlaps(self, ids: np.ndarray) -> None:
        """Count training documents that overlap held-out questions or benchmarks."""
        self._overlapping += np.histogram(ids, self.starts)[0]

    @property
    def copied(self) -> int:
        """Number of training examples that repeat a document."""
        return int(self._copies.sum())

    def describe(self) -> list[dict[str, Any]]:
        """Return for each source its settings and counts, for shards.json.

        `conversations` is whether its documents are turns. `documents` is the sum of those in the three `splits` and of
        all `dropped`. The training split holds the `copies` besides.
        """
        found = []
        for which, choice in enumerate(self.choices):
            source, (start, end) = choice.source, list(pairwise(self.starts.tolist()))[which]
            conversations = source.columns.messages is not None
            written, dropped = self._written[which], dict(sorted(self._dropped[which].items()))
            splits = {name: written[number] for number, name in enumerate(("train", "validation", "test"))}
            assert end - start == sum(splits.values()) + sum(dropped.values()), "each document is kept or dropped, once"
            found.append(
                {"name": source.name, "weight": source.weight, "row_limit": source.rows, "where": source.where}
                | {"conversations": conversations, "first_id": start, "rows": len(choice.states)}
                | {"documents": end - start, "splits": splits}
                | {"copies": int(self._copies[which]), "dropped": dropped, "overlapping": int(self._overlapping[which])}
            )
        return found

    @staticmethod
    def _own(numbers: np.ndarray, starts: np.ndarray, which: int) -> slice:
        """Return the slice of ascending numbers that belong to a source."""
        low, high = np.searchsorted(numbers, [starts[which], starts[which + 1]])
        return slice(int(low), int(high))


def copy_ids(ids: np.ndarray, copy: int) -> np.ndarray:
    """Return the example ids of the copies of documents, [n] int64.

    >>> copy_ids(np.array([7, 9]), 2).tolist()
    [20000000007, 20000000009]
    """
    return ids + copy * COPY


def untrained(sources: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each source, as `describe` returns them, of which no row trains.

    >>> untrained([{"name": "web", "documents": 3, "splits": {"train": 0}, "dropped": {"not_drawn": 3}}])
    ['no row of the source web trains (3 documents; dropped: not_drawn 3); check its columns, where and weight']
    """
    found = []
    for source in sources:
        if not source["splits"]["train"]:
            reasons = ", ".join(f"{name} {count}" for name, count in source["dropped"].items()) or "none"
            found.append(
                f"no row of the source {source['name']} trains ({source['documents']} documents; dropped: {reasons}); "
                "check its columns, where and weight"
            )
    return found
