"""The files that evaluate_likelihood writes and the report reads: their names, and the columns of the table."""

import polars as pl

LIKELIHOOD_FILE = "likelihood.parquet"  # the table LIKELIHOOD: responses up to the first end token
FULL_FILE = "likelihood_full.parquet"  # the table FULL: responses with the tail of end tokens that training appends
BINS_FILE = "likelihood.json"  # sums, bins by mask rate, canaries
BOUND, EXACT = "bound", "exact"  # kinds of NLL: of a diffusion model, and of a causal one
KINDS = {  # what each is, in words; numbers of different kinds are never compared
    BOUND: "a bound, given the length of each response",
    EXACT: "exact, and it pays for the end of each response",
}

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
# The same with tails, and without the row that masks everything; empty where training appends no tail.
FULL = pl.Schema(
    {
        "example_id": pl.Int64(),
        "cluster": pl.Int64(),
        "draw": pl.Int32(),
        "masked": pl.Int32(),  # k, of response and tail together
        "response_tokens": pl.Int32(),  # up to and including the first end token, as in LIKELIHOOD
        "tail_tokens": pl.Int32(),  # further end tokens, L − response_tokens
        "nll_base": pl.Float64(),  # (L/k)·ΣCE in nats, over response and tail
        "nll_tuned": pl.Float64(),
    }
)
