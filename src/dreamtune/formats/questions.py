"""What the training rows say of each question that is asked: by prepare_shards, and for a benchmark by its audit."""

import polars as pl

QUESTIONS_FILE = "questions.parquet"  # the table QUESTIONS

# One row per row of the validation and test split, or of a benchmark.
QUESTIONS = pl.Schema(
    {
        "example_id": pl.Int64(),
        "split": pl.String(),  # "validation" or "test"; null in a benchmark
        "known_template": pl.Boolean(),  # a training row is made from the same template
        "copy_of": pl.Int64(),  # the first training row that is a near copy with the same answer; or null
        "restated": pl.Boolean(),  # the question stands as a whole in training answers or reasonings
        "gives_away": pl.String(),  # how the question gives its answer away, see contamination/giveaway.py; or null
    }
)
