"""Read columns of parquet files as text: first all files' columns are checked, then rows come in bounded batches."""

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from dreamtune.errors import UserError

Texts = list[str | None]
BATCH_BYTES = 32 * 2**20  # of a batch, about: the longer the rows' texts, the fewer rows it has


@dataclass(frozen=True)
class ParquetRows:
    """The rows of several parquet files, numbered from 0 through all files; made by `open_rows`.

    Attributes:
        files: the files, in order.
        rows: number of rows in all files together.
        batch_rows: number of rows that are read at a time.
    """

    files: tuple[Path, ...]
    rows: int
    batch_rows: int

    def texts_at(self, column: str, rows: Iterable[int]) -> dict[int, str]:
        """Return the texts of a few rows of `column` by row number, "" for null; reads up to the last of these rows."""
        wanted, found, start = sorted(set(rows), reverse=True), dict[int, str](), 0
        for batch in self.batches([column]) if wanted else ():
            texts = batch[column]
            while wanted and wanted[-1] < start + len(texts):
                row = wanted.pop()
                found[row] = texts[row - start] or ""
            if not wanted:
                break
            start += len(texts)
        return found

    def batches(self, columns: list[str], among: range | None = None) -> Iterator[dict[str, Texts]]:
        """Yield the rows in order, as batches {column: texts}; null is None, numbers are text (see `as_text`).

        Args:
            columns: names of the columns to read.
            among: yield only the batches whose first row is in this range; None yields all. Other files stay unread.

        Raises:
            UserError: a file cannot be read.
        """
        among = range(self.rows) if among is None else among
        end = 0
        for path in self.files:
            try:
                with _open(path) as file:
                    row, end = end, end + file.metadata.num_rows
                    if end <= among.start or row >= among.stop:
                        continue
                    for batch in file.iter_batches(self.batch_rows, columns=columns, use_threads=False):
                        if row >= among.stop:
                            break
                        if row in among:
                            yield {name: as_text(batch.column(name)) for name in columns}
                        row += batch.num_rows
            except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path} cannot be read: {_line(error)}") from error


def open_rows(files: list[Path], columns: list[str], batch_rows: int) -> ParquetRows:
    """Check that every file is parquet and has `columns` of text or numbers; return the rows, which are read later.

    Args:
        batch_rows: most rows read at a time; long rows make it fewer.

    Raises:
        UserError: a file is empty or no parquet, a column is missing or of another type, or there are no rows at all.
    """
    rows, row_bytes = 0, 1.0
    for path in files:
        with _open(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            rows += file.metadata.num_rows
            row_bytes = max(row_bytes, _bytes_per_row(file.metadata, columns))
    if not rows:
        raise UserError(f"no rows in {', '.join(map(str, files[:3]))}{' …' if len(files) > 3 else ''}")
    return ParquetRows(tuple(files), rows, max(1, min(batch_rows, int(BATCH_BYTES / row_bytes))))


def as_text(column: pa.Array) -> Texts:
    """Return a column's values as text; null and NaN are None.

    Whole numbers lose their ".0", because pandas turns integers into floats as soon as one is missing.

    >>> as_text(pa.array([42.0, 0.5, None, float("nan")]))
    ['42', '0.5', None, None]
    >>> as_text(pa.array([True, False]))
    ['true', 'false']
    """
    if types.is_dictionary(column.type):
        return as_text(column.dictionary_decode())
    if types.is_null(column.type):
        return [None] * len(column)
    if types.is_floating(column.type):
        # In the column's own precision: the float32 0.1 would be 0.10000000149011612 as a float64.
        return [_number(value) for value in column.to_numpy(zero_copy_only=False)]
    texts: Texts = column.cast(pa.string()).to_pylist()
    return texts


def _number(value: np.floating) -> str | None:
    """Return a number as text, without ".0" if it is whole; None for NaN."""
    number = float(value)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else str(value)


def _open(path: Path) -> pq.ParquetFile:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is an empty file (0 bytes); expected parquet")
    try:
        # Read through a buffer, not in whole column chunks, so that even a file of one row group is streamed.
        return pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a parquet file: {_line(error)}") from error


def _check_columns(path: Path, schema: pa.Schema, columns: list[str]) -> None:
    for name in columns:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{path} has no column {name!r}{hint}; its columns are: {', '.join(schema.names)}")
        if schema.names.count(name) > 1:
            raise UserError(f"{path} has {schema.names.count(name)} columns named {name!r}; rename all but one")
        if not _is_text_or_number(schema.field(name).type):
            raise UserError(f"column {name!r} of {path} holds {schema.field(name).type}; expected text or numbers")


def _is_text_or_number(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_text_or_number(kind.value_type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    return text or number or types.is_null(kind)


def _bytes_per_row(metadata: pq.FileMetaData, columns: list[str]) -> float:
    """Return the mean uncompressed bytes of `columns` per row, in the row group where it is largest."""
    largest = 0.0
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        chunks = [group.column(c) for c in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
        largest = max(largest, size / max(group.num_rows, 1))
    return largest


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
