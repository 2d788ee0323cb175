"""Rows of parquet files as text: columns checked before anything is read, then a bounded batch at a time."""

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
# Rows of long text are read fewer at a time, so that a batch stays near this many bytes.
BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ParquetRows:
    """Checked parquet files, one after the other.

    Attributes:
        files: the files, in order.
        rows: rows in all of them.
        batch_rows: rows of one batch, so few that a batch stays small.
    """

    files: tuple[Path, ...]
    rows: int
    batch_rows: int

    def texts_at(self, column: str, rows: Iterable[int]) -> dict[int, str]:
        """Return the texts of a few rows by their number; reads `column` up to the last of them."""
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
        """Yield `{column: texts}` in row order; null stays None, numbers become text.

        With `among`, only the batches whose first row is one of these; files without one are not read.
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
    """Check that every file is parquet and has `columns` of text or numbers.

    Raises:
        UserError: an empty file, not a parquet file, a missing column, a column of another type, no rows at all.
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
    """Return the values as text: 42 and 42.0 are "42", 0.5 is "0.5", true is "true"; NaN is null."""
    if types.is_dictionary(column.type):
        return as_text(column.dictionary_decode())
    if types.is_null(column.type):
        return [None] * len(column)
    if types.is_floating(column.type):
        # In its own precision: 0.1 in 32 bits is written 0.1, not the 0.10000000149011612 it is in 64.
        return [_number(value) for value in column.to_numpy(zero_copy_only=False)]
    texts: Texts = column.cast(pa.string()).to_pylist()
    return texts


def _number(value: np.floating) -> str | None:
    """pandas turns integers into floats as soon as one is missing: write 42.0 as the 42 it was."""
    number = float(value)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else str(value)


def _open(path: Path) -> pq.ParquetFile:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is an empty file (0 bytes); expected parquet")
    try:
        # A buffer instead of whole column chunks: a file of one row group is then streamed too.
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
    """Return the mean uncompressed bytes of `columns` in the fattest row group."""
    largest = 0.0
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        chunks = [group.column(c) for c in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
        largest = max(largest, size / max(group.num_rows, 1))
    return largest


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
