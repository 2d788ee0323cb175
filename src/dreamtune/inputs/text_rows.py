"""Rows of CSV, TSV and JSON lines in UTF-8, read by Python's own parsers, because these say which cell is broken.

CSV: the first line names the columns, every value is text as it stands, and an empty cell is a missing value. JSON
lines: one object a line; a key that a row lacks is a missing value, and numbers become text as in parquet files.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from dreamtune.errors import UserError
from dreamtune.inputs.cells import (
    CELL_BYTES,
    Texts,
    check_cell,
    check_names,
    hint_for,
    not_utf8,
    number_text,
    once_each,
)
from dreamtune.inputs.kinds import kind_of

LINE_BYTES = 4 * CELL_BYTES  # most characters of a line
HEAD = 1_000  # rows of JSON lines whose keys are taken for the columns
BLANK = " \t\r\n"
DECODER = json.JSONDecoder(object_pairs_hook=once_each)
csv.field_size_limit(CELL_BYTES)


def survey_text(path: Path, columns: list[str], nested: Sequence[str] = ()) -> tuple[int, float]:
    """Check that a file has `columns`; return its number of rows and their mean size in bytes. Reads all of it.

    Of JSON lines the cells of the first HEAD rows are checked, too.

    Raises:
        UserError: a column is missing, the file is CSV that cannot be parsed, or a line has no end; or see `read_text`.
    """
    is_csv, full = kind_of(path) == "csv", False
    with _open(path) as file:
        if is_csv:
            names = next((cells for _, cells in _cells(path, file)), [])
        else:
            names = list(dict.fromkeys(name for _, row in islice(_objects(path, file), HEAD) for name in row))
            full = next(_objects(path, file), None) is not None
    check_names(path, names, columns, f"the columns of its first {HEAD:,} rows" if full else "its columns")
    if not is_csv:
        with _open(path) as file:
            for line, row in islice(_objects(path, file), HEAD):
                _of_row(path, line, row, columns, nested)
    with _open(path) as file:
        if is_csv:
            rows = sum(1 for _ in _cells(path, file)) - 1
        else:
            rows = sum(bool(line.strip(BLANK)) for line in _lines(path, file))
    return rows, path.stat().st_size / max(rows, 1)


def read_text(
    path: Path, columns: list[str], batch_rows: int, among: range, nested: Sequence[str] = ()
) -> Iterator[dict[str, Texts]]:
    """Yield the rows of `columns` in order, `batch_rows` at a time: the batches that begin in the range `among`.

    Lists in the columns `nested` of JSON lines are returned as JSON text.

    Raises:
        UserError: a line is no row, or a cell is not text; the message names the line and the column.
    """
    with _open(path) as file:
        rows = _csv(path, file, columns) if kind_of(path) == "csv" else _jsonl(path, file, columns, nested)
        for start in range(0, among.stop, batch_rows):
            batch = list(islice(rows, batch_rows))
            if batch and start in among:
                yield {name: [row[i] for row in batch] for i, name in enumerate(columns)}


def _csv(path: Path, file: TextIO, columns: list[str]) -> Iterator[Texts]:
    rows = _cells(path, file)
    header = next(rows)[1]
    places = {name: header.index(name) for name in columns}
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line}: {len(cells)} cells, where the header has {len(header)}")
        yield [_checked(cells[place], path, line, name) or None for name, place in places.items()]


def _jsonl(path: Path, file: TextIO, columns: list[str], nested: Sequence[str]) -> Iterator[Texts]:
    for line, row in _objects(path, file):
        yield _of_row(path, line, row, columns, nested)


def _of_row(path: Path, line: int, row: dict[str, Any], columns: list[str], nested: Sequence[str]) -> Texts:
    return [_json_text(row.get(name), path, line, name, name in nested) for name in columns]


def _json_text(value: Any, path: Path, line: int, column: str, nested: bool) -> str | None:
    if isinstance(value, list | dict):
        if nested:
            return _checked(json.dumps(value, ensure_ascii=False), path, line, column)
        hint = hint_for(isinstance(value, list) and all(isinstance(part, dict) for part in value))
        raise UserError(
            f"{path}, line {line}, column {column!r}: {json.dumps(value)[:40]}; expected text or a number; {hint}"
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number_text(value)
    return None if value is None else _checked(str(value), path, line, column)


def _checked(text: str, path: Path, line: int, column: str) -> str:
    """Return a text that is valid and not too long; bytes that are not UTF-8 were read as lone surrogates."""
    where = f"{path}, line {line}, column {column!r}"
    try:
        check_cell(len(text) if text.isascii() else len(text.encode()), where)
    except UnicodeEncodeError as error:
        raise not_utf8(where) from error
    return text


def _cells(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line, from 1, and the cells of each row of CSV, the header included."""
    rows = csv.reader(_lines(path, file), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        for cells in rows:
            if cells:
                yield rows.line_num, cells
    except csv.Error as error:
        raise UserError(f'{path}, line {rows.line_num} is not CSV: {error}; quote cells with "') from error


def _objects(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line's number, from 1, and the object of each line that is not blank."""
    for number, line in enumerate(_lines(path, file), 1):
        if not line.strip(BLANK):
            continue
        try:
            row = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number} is not JSON: {getattr(error, 'msg', error)}{_whole(line)}"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: {line.strip()[:40]}; expected one JSON object a line")
        yield number, row


def _whole(line: str) -> str:
    """Return advice for a line that begins an object of several lines, "" for others."""
    return "; write one object a line: jq -c . FILE > FILE.jsonl" if line.strip(BLANK) == "{" else ""


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(LINE_BYTES):
        number += 1
        if len(line) == LINE_BYTES:
            raise UserError(f"{path}, line {number} has {LINE_BYTES:,} characters or more; is it one row a line?")
        yield line


def _open(path: Path) -> TextIO:
    newline = "" if kind_of(path) == "csv" else "\n"  # in a cell of CSV, line ends of every kind stay as they are
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)
