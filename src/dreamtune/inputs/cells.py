"""What a cell of the user's files may hold, and the lines that name a cell which holds something else."""

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.errors import UserError

Texts = list[str | None]  # of a column; None for a missing value
CELL_BYTES = 2**24  # most bytes of one text: 16 for each token of the longest sequence that the settings allow
BATCH_BYTES = 2**25  # of a batch of rows, about: the longer the rows' texts, the fewer rows it has
MOST_ROWS = 10**8  # of all files together: prepare_shards holds 33 bytes for each
CONVERSATIONS = "a column of whole conversations is named by data.columns.messages"
EXPANSION, FREE_BYTES = 1_000, 2**28  # a file may hold this many times its own size in text, and this much in any case


def number_text(value: float | np.floating) -> str | None:
    """Return a number as text in its own precision, without ".0" if it is whole; None for NaN.

    >>> number_text(42.0), number_text(np.float32(0.1)), number_text(float("nan"))
    ('42', '0.1', None)
    """
    number = float(value)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else str(value)


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object by its pairs of key and value; for JSONDecoder, which keeps the last of equal keys.

    Raises:
        ValueError: a key stands in it twice, so that one of the values would be lost.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands in an object twice")
    return row


def check_names(path: Path, names: list[str], columns: list[str], among: str = "its columns") -> None:
    """Raise a UserError if one of `columns` is not among the names of a file's columns, or there twice.

    Args:
        among: words for what `names` are.
    """
    for name in columns:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{path} has no column {name!r}{hint}; {among} are: {', '.join(names)}")
        if names.count(name) > 1:
            raise UserError(f"{path} has {names.count(name)} columns named {name!r}; rename all but one")


def hint_for(messages: bool) -> str:
    """Return advice for a list or an object where text is expected; `messages` is whether it is a list of objects.

    >>> hint_for(False)
    'write the text that is meant, such as its first entry, into a column of text'
    """
    return CONVERSATIONS if messages else "write the text that is meant, such as its first entry, into a column of text"


def check_cell(count: int, where: str) -> None:
    """Raise a UserError if a cell has more than CELL_BYTES bytes (`count`); `where` names the cell."""
    if count > CELL_BYTES:
        raise UserError(f"{where} holds a text of {count:,} bytes; at most {CELL_BYTES:,} can be read, so shorten it")


def check_expansion(path: Path, count: int) -> None:
    """Raise a UserError if a file decodes to more bytes (`count`) than any real text of its size does."""
    size = path.stat().st_size
    if count > max(FREE_BYTES, EXPANSION * size):
        raise UserError(
            f"{path} has {size:,} bytes and holds more than {EXPANSION} times as much text ({count:,} bytes or more); "
            "remove its repeated rows"
        )


def not_utf8(where: str) -> UserError:
    """Return the error for a cell (`where` names it) whose bytes are not UTF-8."""
    return UserError(f"{where} is not UTF-8; mend this cell, or convert the file (iconv -f latin1 -t utf8)")


def cuts(sizes: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows that hold at most BATCH_BYTES in all, or one row; `sizes` [rows] are theirs.

    >>> list(cuts(np.array([BATCH_BYTES // 2, BATCH_BYTES // 2, 1])))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    start, upto = 0, np.cumsum(sizes)
    while start < len(sizes):
        before = upto[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(upto, before + BATCH_BYTES, side="right")))
        yield slice(start, stop)
        start = stop
