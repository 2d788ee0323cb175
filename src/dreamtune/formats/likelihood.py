"""The files that evaluate_likelihood writes and the report reads: their names, and the columns of the table."""

import polars as pl

LIKELIHOOD_FILE = "likelihood.parquet"  # the table LIKELIHOOD
BINS_FILE = "likelihood.json"  # sums, bins by mask rate, canaries

# One row per example of the test split and mask draw; `evaluate/draws.py` computes statistics from it.
LIKELIHOOD = pl.Schema(
    {
        "example_id": pl.Int64(),
        "cluster": pl.Int64(),  # questions of one template share it: the example_id of the first
        "draw": pl.Int32(),  # EVERYTHING (-1): the row that masks everything
        "masked": pl.Int32(),  # k
        "response_tokens": pl.Int32(),  # L
        "nll_base": pl.Float64(),  # (L/k)·ΣCE in nats
        "nll_tuned": pl.Float64(),
        "everything_masked": pl.Boolean(),
    }
)
