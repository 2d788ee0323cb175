"""Join the tables that several jobs of one version wrote."""

from collections.abc import Sequence

import polars as pl

from dreamtune.errors import UserError


def gather(tables: Sequence[pl.DataFrame], rows: int) -> pl.DataFrame:
    """Return the tables joined into one, sorted by the column `row`, which must hold each number of range(rows) once.

    Raises:
        UserError: a row is missing, or two tables hold it.
    """
    table = pl.concat(tables).sort("row")
    if not table["row"].equals(pl.Series("row", range(rows), table.schema["row"])):
        raise UserError(
            f"the parts hold {table['row'].n_unique()} of {rows} rows, in {table.height} entries; delete the folder "
            "parts/ of this version and start snakemake again"
        )
    return table
