"""Averages over the rows of likelihood.parquet, one row per example and mask draw, NLL in nats. Imports no torch."""

import polars as pl

EVERYTHING = -1  # draw number of the row whose whole response is masked


def per_example(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row per example, by example_id, with the mean over its draws of each nll column.

    Columns: example_id, cluster if the frame has it, response_tokens, and each nll column.
    """
    draws = frame.filter(pl.col("draw") >= 0)
    kept = pl.first("^cluster$", "response_tokens")
    return draws.group_by("example_id").agg(kept, pl.mean("^nll.*$")).sort("example_id")


def nats_per_token(frame: pl.DataFrame, column: str = "nll") -> float:
    """Return Σ NLL / Σ tokens over examples, where an example's NLL is the mean over its draws.

    Two examples of 10 and 30 tokens, the first with two draws:

    >>> rows = {"example_id": [0, 0, 1], "draw": [0, 1, 0], "response_tokens": [10, 10, 30], "nll": [4.0, 6.0, 15.0]}
    >>> nats_per_token(pl.DataFrame(rows))
    0.5
    """
    examples = per_example(frame)
    return float(examples[column].sum()) / int(examples["response_tokens"].sum())
