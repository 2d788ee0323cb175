"""The rows of likelihood.parquet, without torch: one per example and mask draw, NLL in nats."""

import polars as pl

EVERYTHING = -1  # the draw number of the row that masks everything


def per_example(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row per example, in order: response_tokens and the mean over draws of every nll column."""
    draws = frame.filter(pl.col("draw") >= 0)
    return draws.group_by("example_id").agg(pl.first("response_tokens"), pl.mean("^nll.*$")).sort("example_id")


def nats_per_token(frame: pl.DataFrame, column: str = "nll") -> float:
    """Return Σ NLL / Σ tokens over examples, each example's NLL being the mean over its draws."""
    examples = per_example(frame)
    return float(examples[column].sum()) / int(examples["response_tokens"].sum())
