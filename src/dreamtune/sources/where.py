"""The expression `data.sources[].where`: read without running anything, and applied to rows in bounded memory.

polars reads SQL without Python's `eval`; but a subquery could open any file while it is read, and an aggregate would
depend on how many rows are read at a time. So words that begin a subquery are refused before, and after it everything
that does not look at one row alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from pyarrow import types

from dreamtune.errors import UserError
from dreamtune.inputs.cells import Texts
from dreamtune.inputs.kinds import kind_of
from dreamtune.inputs.parquet_rows import class_labels
from dreamtune.inputs.rows import open_rows

NUMBERS = "cells of CSV and JSON lines are text, for numbers write CAST(column AS DOUBLE)"
BATCH_ROWS = 10_000  # rows read at a time; long ones make it fewer
QUERY = re.compile(r"\b(select|table|read_\w+)\b", re.IGNORECASE)
CLOCK = re.compile(r"\b(now|today|current_\w+|localtime\w*)\b", re.IGNORECASE)
NODES = {"Column", "Literal", "BinaryExpr", "Cast", "Ternary", "Function"}  # of polars' expression trees
PARTS = ("left", "right", "expr", "predicate", "truthy", "falsy")  # of such nodes, each a tree
FUNCTIONS = {"StringExpr", "Boolean", "Sql", "Coalesce", "Abs", "Round", "Negate", "Floor", "Ceil", "FillNull"}
OF_SEVERAL_ROWS = {"Any", "All", "IsUnique", "IsDuplicated", "IsFirstDistinct", "IsLastDistinct", "ConcatVertical"}


class Where:
    """Tells which rows a condition keeps.

    Args:
        text: an SQL expression over columns.

    Raises:
        UserError: it is no expression, or one that needs more than the row's own columns.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        for words, what in ((QUERY, "reads other data"), (CLOCK, "reads the clock")):
            if found := words.search(text):
                raise self._refusal(f"the word {found[0]!r}, which {what}, can stand nowhere in it")
        try:
            self.expression = pl.sql_expr(text)
            tree = json.loads(self.expression.meta.serialize(format="json"))
            self.columns = list(dict.fromkeys(self.expression.meta.root_names()))
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise self._refusal(_line(error)) from error
        if (wrong := next(_others(tree), None)) is not None:
            raise self._refusal(f"{wrong} does not look at one row alone")
        if not self.columns:
            raise self._refusal("it names no column")
        self.measured = [pl.Expr.deserialize(StringIO(json.dumps(part)), format="json") for part in _measured(tree)]

    def check(self, path: Path) -> None:
        """Check without reading rows that a file has the columns, and that the condition fits their types.

        Raises:
            UserError: see `rows_of`.
        """
        open_rows([path], self.columns, BATCH_ROWS, self.columns)
        self._kept(path, {name: [] for name in self.columns}, _kinds(path, self.columns))

    def rows_of(self, path: Path) -> np.ndarray:
        """Return which rows of a file the condition keeps, [rows] bool; not those where it is null.

        Columns of numbers and of true and false in parquet files are compared as such. All others are text.

        Raises:
            UserError: the file cannot be read or lacks a column; or the condition is no true or false for its cells.
        """
        kinds = _kinds(path, self.columns)
        rows = open_rows([path], self.columns, BATCH_ROWS, self.columns)
        return np.concatenate([self._kept(path, batch, kinds) for batch in rows.batches(self.columns)])

    def _kept(self, path: Path, batch: dict[str, Texts], kinds: dict[str, Any]) -> np.ndarray:
        try:
            frame = _frame(batch, kinds)
            found = frame.select(self.expression.alias("kept"))["kept"]
            texts = [part for part in self.measured if frame.select(part).dtypes == [pl.String]]
        except pl.exceptions.PolarsError as error:
            raise self._refusal(f"{path}: {_line(error)} ({NUMBERS})") from error
        if texts:  # which polars would write as a text, to compare letters
            raise self._refusal(f"{path}: a text is compared with a number ({NUMBERS})")
        if found.dtype != pl.Boolean:
            raise self._refusal(f"it gives {found.dtype}, and not true or false")
        return found.fill_null(False).to_numpy()

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"data.sources, where {self.text!r}: {why}; expected an SQL expression over the columns of a row, such as "
            "lang = 'en' AND length(question) < 500"
        )


def _others(tree: Any) -> Iterator[str]:
    """Yield the names of the operations in a polars expression's tree that do not look at one row alone.

    >>> list(_others({"BinaryExpr": {"left": {"Agg": {"Mean": {"Column": "score"}}}, "op": "Gt", "right": "Len"}}))
    ['Agg', 'Len']
    """
    nodes: list[tuple[str, Any]] = [(tree, None)] if isinstance(tree, str) else list(tree.items())
    for name, content in nodes:
        if name not in NODES:
            yield name
        elif name == "Function":
            family = content["function"]
            family, kind = next(iter(family.items())) if isinstance(family, dict) else (family, None)
            kind = next(iter(kind)) if isinstance(kind, dict) else kind
            if family not in FUNCTIONS or kind in OF_SEVERAL_ROWS:
                yield str(kind or family)
            yield from (found for inside in content["input"] for found in _others(inside))
        elif name not in ("Column", "Literal"):
            yield from (found for part in PARTS if part in content for found in _others(content[part]))


def _measured(tree: Any) -> Iterator[Any]:
    """Yield the parts of an expression's tree that are compared with a number that has a decimal point."""
    if isinstance(tree, dict):
        inputs = tree.get("input") if "function" in tree else None
        if inputs and any("Decimal" in str(part.get("Literal")) for part in inputs if isinstance(part, dict)):
            yield from (part for part in inputs if isinstance(part, dict) and "Literal" not in part)
        yield from (found for part in tree.values() for found in _measured(part))
    elif isinstance(tree, list):
        yield from (found for part in tree for found in _measured(part))


def _frame(batch: dict[str, Texts], kinds: dict[str, Any]) -> pl.DataFrame:
    """Return a batch of texts as a table whose columns have their types in `kinds`, or are text."""
    frame = pl.DataFrame(batch, schema=dict.fromkeys(batch, pl.String))
    typed = (pl.col(name) == "true" if kind == pl.Boolean else pl.col(name).cast(kind) for name, kind in kinds.items())
    return frame.with_columns(typed)


def _kinds(path: Path, columns: Sequence[str]) -> dict[str, Any]:
    """Return the polars types of a parquet file's columns of numbers, and of true and false, by name."""
    if kind_of(path) != "parquet":
        return {}
    schema = pq.read_schema(path)
    named = class_labels(path, schema)
    tests = ((types.is_floating, pl.Float64), (types.is_boolean, pl.Boolean), (types.is_integer, pl.Int64))
    there = [name for name in columns if name in schema.names and name not in named]
    return {name: kind for name in there for test, kind in tests if test(schema.field(name).type)}


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
