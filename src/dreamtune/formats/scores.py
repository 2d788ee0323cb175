"""The files that score_answers writes and the report reads: their names, and the columns of the table."""

import polars as pl

SCORES_FILE = "scores.parquet"  # the table SCORES
RATES_FILE = "scores.json"  # counts and rates over all rows
UNDECIDED = -1  # class of an answer that could not be told from an earlier one within the grader's CPU time

# The grade of an answer: one row per question and sample.
GRADES = pl.Schema(
    {
        "example_id": pl.Int64,
        "cluster": pl.Int64,  # questions of one template share it: the example_id of the first
        "sample": pl.Int32,
        "gradable": pl.Boolean,
        "correct": pl.Boolean,  # null where the row is not gradable, or undecided
        "undecided": pl.Boolean,  # gradable, but the comparison with the reference ran out of CPU time twice
        "cut": pl.Boolean,  # the answer went on to another question or turn, which was cut off before grading
        "uncut": pl.Boolean,  # `correct` without that cut
        "strict": pl.Boolean,
        "lenient": pl.Boolean,  # null where the reference is not a number
        "reference": pl.String,
        "extracted": pl.String,
        "extractor": pl.String,
        "parse_failed": pl.Boolean,
        "ended": pl.Boolean,
        "tokens": pl.Int32,
        "passes": pl.Int32,  # forward passes that the row took part in; null where the answers do not say
        "repetition": pl.Float64,  # share of 4-grams that occurred before in the same answer
        "distinct_2": pl.Float64,  # distinct 2-grams / 2-grams
        "distinct_1": pl.Float64,  # distinct tokens / tokens
        "choices": pl.Int32,  # steps that had a choice of tokens to reveal
        "left_to_right": pl.Float64,  # share of the steps that revealed the leftmost hidden tokens; null: no choice
        "order_correlation": pl.Float64,  # Kendall's tau-b of position and step; null where there is no order
    }
)
# In addition, a question's samples are compared with each other: answers with the same meaning have the same class.
SCORES = pl.Schema(GRADES | {"answer_class": pl.Int32()})
