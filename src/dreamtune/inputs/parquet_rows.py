"""Read columns of a parquet file as text, in bounded memory even where a few bytes stand for gigabytes.

Sizes are taken from the file's own metadata before anything is decoded. Text columns are decoded as dictionaries, so
that a text which many rows repeat is in memory once.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from dreamtune.errors import UserError
from dreamtune.inputs.cells import (
    CELL_BYTES,
    Texts,
    check_cell,
    check_expansion,
    check_names,
    cuts,
    hint_for,
    not_utf8,
    number_text,
)
from dreamtune.inputs.column_types import has_messages, is_nested, is_text, is_text_or_number, leaves_of

SHOWN = 80  # most characters of a type in a message
PAGE_BYTES = 4096  # most bytes of a page's header beside the only text in it
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)


def survey_parquet(path: Path, columns: list[str], nested: Sequence[str] = ()) -> tuple[int, float]:
    """Check that a file has `columns` of text or numbers; return its number of rows and their mean size in bytes.

    The columns `nested` may hold lists, too. Only the file's footer is read. The mean is that of the row group where it
    is largest.

    Raises:
        UserError: the file is broken, a column is missing or of another type, or a text is too long.
    """
    with _open(path) as file:
        schema = file.schema_arrow
        check_names(path, schema.names, columns)
        for name in columns:
            kind = schema.field(name).type
            if not is_text_or_number(kind) and not (name in nested and is_nested(kind)):
                raise _of_another_type(path, name, kind, name in nested)
        return file.metadata.num_rows, _bytes_per_row(path, file.metadata, columns)


def _of_another_type(path: Path, name: str, kind: pa.DataType, nested: bool) -> UserError:
    """Return the error for a column whose type cannot be read; `nested` is whether it may hold lists."""
    what = str(kind) if len(str(kind)) <= SHOWN else f"{str(kind)[:SHOWN]}…"
    if nested:
        expected = "a list of {role, content}, without pictures, sound or maps in it; drop these fields"
    else:
        hint = hint_for(has_messages(kind)) if is_nested(kind) else ""
        expected = f"text or numbers{hint and '; '}{hint}"
    return UserError(f"column {name!r} of {path} holds {what}; expected {expected}")


def read_parquet(
    path: Path, columns: list[str], batch_rows: int, among: range, _nested: Sequence[str] = ()
) -> Iterator[dict[str, Texts]]:
    """Yield the rows of `columns` in order: those of each stretch of `batch_rows` rows that begins in `among`.

    A stretch with more than BATCH_BYTES of text comes in several batches.

    Raises:
        UserError: the file is broken, or a cell is not UTF-8 or too long; the message names row and column.
    """
    row, decoded = 0, 0
    try:
        with _open(path) as file:
            leaves = leaves_of(file.metadata, columns)
        with _open(path, leaves) as file:
            labels = class_labels(path, file.schema_arrow)
            for stretch in _stretches(file.iter_batches(batch_rows, columns=columns, use_threads=False), batch_rows):
                if row >= among.stop:
                    break
                if row in among:
                    sizes = np.sum([_sizes(path, name, stretch, row) for name in columns], axis=0)
                    decoded += int(sizes.sum())
                    check_expansion(path, decoded)
                    texts = {name: _texts(path, name, stretch, row, labels.get(name)) for name in columns}
                    for cut in cuts(sizes):
                        yield {name: texts[name][cut] for name in columns}
                row += sum(piece.num_rows for piece in stretch)
    except BROKEN as error:
        raise UserError(f"{path} cannot be read{_place(path, columns, batch_rows)}: {_line(error)}") from error


def class_labels(path: Path, schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes, by column, of those columns that the library `datasets` wrote as ClassLabel.

    It stores the numbers of the classes in the column, and their names in the file's metadata.

    Raises:
        UserError: the metadata is damaged.
    """
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
        kinds = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        return {name: list(kind["names"]) for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} has damaged metadata of the library datasets ({error}); write it again") from error


def as_text(column: pa.Array, names: list[str] | None = None) -> Texts:
    """Return a column's values as text; null and NaN are None.

    Whole numbers lose their ".0", because pandas turns integers into floats as soon as one is missing.

    Args:
        column: text, numbers, or a dictionary of them, whose values are returned; or lists, returned as JSON text, in
            which decimals and times are text.
        names: of classes, where the column holds their numbers; -1 then stands for a missing one.

    >>> as_text(pa.array([42.0, 0.5, None, float("nan")]))
    ['42', '0.5', None, None]
    >>> as_text(pa.array([True, False]))
    ['true', 'false']
    >>> as_text(pa.array([1, 0, -1]), ["no", "yes"])
    ['yes', 'no', None]

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
        IndexError: a class has no name.
    """
    if names is not None:
        return [None if i is None or i == -1 else names[_index(i, names)] for i in column.to_pylist()]
    if types.is_dictionary(column.type):
        used, places = _used(column)
        values = [*as_text(used), None]
        return [values[place] for place in places]
    if types.is_null(column.type):
        return [None] * len(column)
    if is_nested(column.type):
        return [
            None if value is None else json.dumps(value, ensure_ascii=False, default=str)
            for value in column.to_pylist()
        ]
    if types.is_floating(column.type):
        # In the column's own precision: the float32 0.1 would be 0.10000000149011612 as a float64.
        return [number_text(value) for value in column.to_numpy(zero_copy_only=False)]
    texts: Texts = column.cast(pa.string()).to_pylist()
    return texts


def _used(column: pa.DictionaryArray) -> tuple[pa.Array, np.ndarray]:
    """Return the values of a dictionary that occur in the column, and each row's place among them, -1 for null.

    A batch comes with the dictionary of its whole row group.
    """
    codes, places = np.unique(column.indices.cast(pa.int64()).fill_null(-1).to_numpy(), return_inverse=True)
    nulls = int((codes == -1).sum())  # 1 or 0, and -1 is the first code
    return column.dictionary.take(pa.array(codes[nulls:])), places - nulls


def _index(number: int, names: list[str]) -> int:
    if not 0 <= number < len(names):
        raise IndexError(f"class {number}, where the file's metadata names {len(names)} classes")
    return number


def _texts(path: Path, name: str, stretch: list[pa.RecordBatch], row: int, names: list[str] | None) -> Texts:
    """Return a column's texts in a stretch of rows, the first of which is `row`.

    Raises:
        UserError: a cell is not UTF-8, or a class without a name.
    """
    texts: Texts = []
    for piece in stretch:
        column = piece.column(name)
        try:
            texts += as_text(column, names)
        except UnicodeDecodeError as error:
            raise not_utf8(_cell(path, row + len(texts) + _first_broken(column), name)) from error
        except IndexError as error:
            raise UserError(f"column {name!r} of {path} holds {error}") from error
    return texts


def _first_broken(column: pa.Array) -> int:
    for row, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return row
    raise AssertionError("a column with a broken text has a first one")


def _sizes(path: Path, name: str, stretch: list[pa.RecordBatch], row: int) -> np.ndarray:
    """Return the bytes of each text of a column in a stretch of rows, [rows] int64; 0 for null and numbers."""
    sizes = np.concatenate([_bytes_of(piece.column(name)) for piece in stretch])
    longest = int(sizes.argmax())
    check_cell(int(sizes[longest]), _cell(path, row + longest, name))
    return sizes


def _bytes_of(column: pa.Array) -> np.ndarray:
    if types.is_struct(column.type):
        return np.sum([np.zeros(len(column), np.int64), *map(_bytes_of, column.flatten())], axis=0)
    if is_nested(column.type):
        inner = np.concatenate([np.zeros(1, np.int64), np.cumsum(_bytes_of(column.flatten()))])
        ends = np.cumsum(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False))
        return np.diff(inner[np.concatenate([[0], ends])])
    if types.is_dictionary(column.type):
        values, places = _used(column)
        return np.append(_bytes_of(values), 0)[places]
    if not is_text(column.type):
        return np.zeros(len(column), np.int64)
    return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _stretches(pieces: Iterable[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Yield the pieces in lists that hold `rows` rows each, the last one the rest: a piece ends with its row group."""
    waiting: list[pa.RecordBatch] = []
    missing = rows
    for whole in pieces:
        piece = whole
        while piece.num_rows >= missing:
            yield [*waiting, piece.slice(0, missing)]
            piece, waiting, missing = piece.slice(missing), [], rows
        if piece.num_rows:
            waiting.append(piece)
            missing -= piece.num_rows
    if waiting:
        yield waiting


def _place(path: Path, columns: list[str], batch_rows: int) -> str:
    """Return the words that name the first of the columns that cannot be decoded, and where; "" if all can."""
    for name in columns:
        row = 0
        try:
            with _open(path, [name]) as file:
                for batch in file.iter_batches(batch_rows, columns=[name], use_threads=False):
                    row += batch.num_rows
        except BROKEN:
            return f", column {name!r}, from row {row} on (the first is row 0)"
    return ""


def _cell(path: Path, row: int, column: str) -> str:
    return f"{path}, row {row} (the first is row 0), column {column!r}"


def _open(path: Path, texts: Iterable[str] = ()) -> pq.ParquetFile:
    """Open a file; those of the columns `texts` that hold text are decoded as dictionaries."""
    try:
        # Read through a buffer, not in whole column chunks, so that even a file of one row group is streamed.
        return pq.ParquetFile(
            path, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True, read_dictionary=list(texts)
        )
    except BROKEN as error:
        raise UserError(f"{path} is not a parquet file that can be read: {_line(error)}") from error


def _bytes_per_row(path: Path, metadata: pq.FileMetaData, columns: list[str]) -> float:
    """Return the mean uncompressed bytes of `columns` per row, in the row group where it is largest.

    Raises:
        UserError: a column chunk can only hold texts that are too long, or far more text than the file has bytes.
    """
    largest, whole, leaves = 0.0, 0, leaves_of(metadata, columns)
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        chunks = [group.column(c) for c in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.path_in_schema in leaves]
        for chunk in chunks:
            mean = chunk.total_uncompressed_size // max(chunk.num_values, 1)
            if mean > CELL_BYTES + PAGE_BYTES:
                check_cell(mean, f"{path}, row group {g}, column {chunk.path_in_schema!r}")
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        largest, whole = max(largest, size / max(group.num_rows, 1)), whole + size
    check_expansion(path, whole)
    return largest


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
