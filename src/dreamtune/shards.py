"""Read the shards that `prepare_shards` wrote: memory-mapped Arrow files, and shards.json, which describes them.

The files have the format of the library `datasets`, whose `Dataset.from_file` opens them, too. Here pyarrow reads them,
because importing `datasets`, and pandas with it, takes a second in every process.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dreamtune.errors import UserError
from dreamtune.formats.shards import COPY, SHARDS_FILE


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of shards.json.

    Its keys: template, beginning_token, max_tokens, tokenizer (ids), splits, source_rows, dropped; and, of several
    sources, `sources`.

    Raises:
        UserError: `folder` is no finished output of prepare_shards.
    """
    path = Path(folder) / SHARDS_FILE
    if not path.exists():
        raise UserError(f"{folder} holds no {SHARDS_FILE}; it is not a finished output of prepare_shards")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def sources_of(meta: dict[str, Any], example_ids: np.ndarray) -> np.ndarray:
    """Return the source of each example as a number into `meta["sources"]`, [n] int64; copies have their row's.

    >>> meta = {"sources": [{"first_id": 0}, {"first_id": 60}]}
    >>> sources_of(meta, np.array([59, 60, COPY + 7])).tolist()
    [0, 1, 0]
    """
    first = np.array([source["first_id"] for source in meta["sources"]])
    return np.searchsorted(first, example_ids % COPY, side="right") - 1


def limited(meta: dict[str, Any], rows: int, limit: int | None) -> np.ndarray:
    """Return which rows of a split are used where a setting limits their number, [n] int64, ascending.

    The first ones; of several sources, which lie one behind the other, rows at even distances.

    >>> limited({}, rows=9, limit=3).tolist(), limited({"sources": []}, rows=9, limit=3).tolist()
    ([0, 1, 2], [0, 4, 8])
    """
    count = min(limit or rows, rows)
    places = np.arange(count)
    return places * (rows - 1) // max(count - 1, 1) if "sources" in meta else places


class Split:
    """The rows of one split, memory-mapped: a row is read from its file when it is indexed.

    As in a `datasets.Dataset`, `split[3]` is one row, a dictionary by column; `split[:2]` and `split[[7, 0]]` are
    several rows, a dictionary of lists by column; and iterating yields one row after the other.

    >>> split = Split(pa.table({"example_id": [5, 8, 9]}))
    >>> split[1], split[[2, 0]]
    ({'example_id': 8}, {'example_id': [9, 5]})

    Attributes:
        table: all rows as an Arrow table, for work on whole columns.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._batches = table.to_batches()
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield from batch.to_pylist()

    def __getitem__(self, rows: int | slice | Sequence[int]) -> dict[str, Any]:
        if isinstance(rows, int):
            return {name: values[0] for name, values in self[[rows]].items()}
        numbers = range(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        # Table.take is avoided, because each call first joins all of a column's batches in memory.
        return pa.Table.from_batches([self._one(number) for number in numbers], self.table.schema).to_pydict()

    def _one(self, number: int) -> pa.RecordBatch:
        place = number + len(self) if number < 0 else number
        if not 0 <= place < len(self):
            raise IndexError(f"row {number} of a split of {len(self)} rows")
        which = bisect_right(self._ends, place)
        return self._batches[which].slice(place - self._ends[which] + self._batches[which].num_rows, 1)


def read_split(folder: Path, split: str) -> Split:
    """Return one split, its files memory-mapped and concatenated, in the order of the source files.

    Args:
        folder: finished output of prepare_shards.
        split: "train", "validation" or "test". `formats.shards.SHARD` describes the columns.

    Raises:
        UserError: the split does not exist or has no rows.
    """
    splits = read_meta(folder)["splits"]
    if split not in splits:
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    files = splits[split]["files"]
    if not files:
        raise UserError(f"the {split} split in {folder} has no rows; raise data.split.{split} or bring more data")
    return Split(pa.concat_tables([_mapped(Path(folder) / file) for file in files]))


def _mapped(file: Path) -> pa.Table:
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
