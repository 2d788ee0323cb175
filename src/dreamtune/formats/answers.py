"""The files that generate_answers writes and other stages read: their names, and the columns of the tables."""

import polars as pl

ANSWERS_FILE = "answers.parquet"  # the table ANSWERS
TIMINGS_FILE = "timings.parquet"  # the table TIMINGS
GENERATION_FILE = "generation.json"  # the sampler's settings, and counts

# One row per question and sample.
ANSWERS = pl.Schema(
    {
        "example_id": pl.Int64(),  # row of the source or of the benchmark; -1, -2, … for the user's own prompts
        "cluster": pl.Int64(),  # questions of one template share it: the example_id of the first
        "sample": pl.Int32(),
        "question": pl.String(),
        "answer": pl.String(),  # the reference; null for the user's own prompts
        "prompt_tokens": pl.Int32(),  # worked examples included
        "shots": pl.List(pl.Int64()),  # example ids of the worked training examples before the question
        "completion": pl.String(),  # up to the end token
        "tokens": pl.List(pl.Int32()),  # up to and including the first end token
        "pieces": pl.List(pl.String()),  # the text each of these adds to the completion
        "ended": pl.Boolean(),
        "steps": pl.Int32(),  # denoising steps until the row was finished
        "passes": pl.Int32(),  # forward passes it took part in
        "unmasked_at": pl.List(pl.Int32),  # the step, from 0, at which each token was revealed
    }
)
# One row per row of ANSWERS, in a file apart, because times differ from run to run.
TIMINGS = pl.Schema({"example_id": pl.Int64(), "sample": pl.Int32(), "seconds": pl.Float64()})
