"""Answers that pass from the job of one part of a version to the job that gathers all parts.

A part's job writes OUT/part.parquet, one row per answer.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from dreamtune.gather import gather
from dreamtune.generate.row import Answer, Request

PART = "part.parquet"
SCHEMA = pl.Schema(
    {
        "row": pl.Int64(),  # among all requests of the version
        "tokens": pl.List(pl.Int32()),
        "unmasked_at": pl.List(pl.Int32()),
        "ended": pl.Boolean(),
        "steps": pl.Int32(),
        "passes": pl.Int32(),
        "seconds": pl.Float64(),
    }
)


def write_part(rows: Iterable[int], answers: Sequence[Answer], out: Path) -> None:
    """Write OUT/part.parquet.

    Args:
        rows: for each answer, the place of its request among all requests of the version.
        answers: the answers, in the order of `rows`.
        out: folder of the part.
    """
    fields = [name for name in SCHEMA if name != "row"]
    table = [{"row": row} | {name: getattr(a, name) for name in fields} for row, a in zip(rows, answers, strict=True)]
    pl.DataFrame(table, schema=SCHEMA).write_parquet(out / PART)


def read_parts(folders: Iterable[Path], requests: Sequence[Request]) -> list[Answer]:
    """Return the answer to each request, in the order of `requests`.

    Args:
        folders: folders of all parts.
        requests: all requests of the version.

    Raises:
        UserError: a request has no answer in the parts, or more than one.
    """
    table = gather([pl.read_parquet(folder / PART) for folder in folders], len(requests))
    answers = table.drop("row").iter_rows(named=True)
    return [Answer(request, **answer) for request, answer in zip(requests, answers, strict=True)]
