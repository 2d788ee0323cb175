"""Rows that several jobs made, as one table."""

from collections.abc import Sequence

import polars as pl

from dreamtune.errors import UserError


def gather(tables: Sequence[pl.DataFrame], rows: int) -> pl.DataFrame:
    """Return the tables as one, ordered by its column `row`, which holds each of range(rows) once.

    Raises:
        UserError: a row is missing, or stands there twice.
    """
    table = pl.concat(tables).sort("row")
    if not table["row"].equals(pl.Series("row", range(rows), table.schema["row"])):
        raise UserError(
            f"the parts hold {table['row'].n_unique()} of {rows} rows, in {table.height} entries; delete the folder "
            "parts/ of this version and start snakemake again"
        )
    return table
