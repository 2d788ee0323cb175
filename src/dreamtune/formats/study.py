"""The files that the stages `study` and `confirm` write: their names, and the columns of the table."""

import polars as pl

STUDY_FILE = "study.json"  # rule, family and choice, with a mapping of the columns below for each comparison
CONFIRM_FILE = "confirm.json"  # of the stage `confirm`: the choice, and the winner's comparison alone
TABLE_FILE, CSV_FILE = "study.parquet", "study.csv"  # the table STUDY, twice

# One row per comparison, the family's first. Gains are shares of right answers (0.1 is ten points) or nats per token
# by which the NLL falls; more is better.
STUDY = pl.Schema(
    {
        "comparison": pl.String,  # "qlora against full"
        "method": pl.String,
        "against": pl.String,  # "base", or the study's baseline
        "role": pl.String,  # confirmatory: in the family; or exploratory
        "about": pl.String,  # method: of at least three seeds each; or adapters: those that were trained
        "seeds": pl.Int32,
        "seeds_against": pl.Int32,  # of the baseline; null for the base model, which has none
        "ended": pl.String,  # of which method how many seeds ended without a report, and how; null if none
        "questions": pl.Int32,
        "clusters": pl.Int32,
        "gain": pl.Float64,
        "low": pl.Float64,  # limits for this comparison alone; null where there is no test
        "high": pl.Float64,
        "simultaneous_low": pl.Float64,  # limits that hold for all comparisons of this role together
        "simultaneous_high": pl.Float64,
        "error_questions": pl.Float64,
        "error_seeds": pl.Float64,  # null where the seeds are too few
        "df": pl.Float64,
        "p": pl.Float64,  # raw, two-sided
        "p_adjusted": pl.Float64,  # Holm's over the family
        "test": pl.String,  # or why there is none
        "word": pl.String,
        "equivalence": pl.String,  # equivalent, no worse, not shown; null where nobody asked
        "p_no_worse": pl.Float64,
        "p_equivalent": pl.Float64,
        "sentence": pl.String,
    }
)
