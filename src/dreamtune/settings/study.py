"""Settings of a study: how experiments are repeated over seeds and data sizes, and how large the study may become."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from dreamtune.settings.base import MANY, Float, Section, result, runtime

FEWEST_QUESTIONS = 200  # of validation, to choose by: of 34, choosing among nine is little better than drawing lots


def _size(value: Any) -> Any:
    """Return a data size; checked here, so that an error names it alone."""
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MANY):
        return value
    raise ValueError(f"expected a number of rows from 1 to {MANY:,}, or all")


Size = Annotated[Annotated[int, Field(ge=1, le=MANY)] | Literal["all"], BeforeValidator(_size)]


Share = Annotated[Float, Field(gt=0.0, lt=1.0)]


class Halving(Section):
    """Stop the points of grids that do worst on validation while they train (successive halving)."""

    of: list[str] | None = result(
        None, "names of the experiments whose grids are halved, each grid by itself; null halves every grid"
    )
    after: list[Share] = result(
        ...,
        "shares of a full run's steps (0 to 1) after which points stop, the smallest first, such as [0.25, 0.5]",
        min_length=1,
        max_length=20,
    )
    keep: Share = result(0.5, "share of the points that go on each time, rounded up")
    fewest: int = result(1, "points that go on at least", ge=1, le=MANY)

    @field_validator("after")
    @classmethod
    def shares_rise(cls, after: list[float]) -> list[float]:
        if after != sorted(set(after)):
            raise ValueError("expected rising shares, each once, such as [0.25, 0.5]")
        return after


class StudyConfig(Section):
    """Settings of a study: a configuration whose experiments are compared with each other."""

    baseline: str | None = result(
        None,
        "the method that all others are compared with, besides the base model: an experiment's name, as the runs are "
        "named, without a seed; null for none",
    )
    primary: Literal["accuracy", "nll"] | None = result(
        None, "the measure that the comparisons are of; null takes evaluate.primary, which must be the same for all"
    )
    comparisons: list[str] = result(
        list,
        "the methods that are named beforehand: each is compared with the base model and with the baseline, corrected "
        "for their number (Holm), and all others are exploratory; if empty, all outside of grids and data sizes",
    )
    equivalence_points: Float | None = result(
        None,
        "margin in percentage points of the question whether a method is no worse than what it is compared with; null "
        "does not ask it; accuracy only",
        gt=0.0,
        le=100.0,
    )
    choose: Literal["validation", "test"] = result(
        "test",
        "which questions choose the best method: those of the test split, where its gain is overstated and intervals "
        "are simultaneous; or those of validation, at least 200, so that its test answers confirm it alone",
    )
    halving: Halving | None = result(
        None, "stop the points of grids that do worst on validation while they train; null stops none"
    )
    failed: Literal["wait", "leave_out"] = runtime(
        "wait",
        "what becomes of a run of which a job failed for good: each call tries it again, and the study waits for it; "
        "or it is left out and not tried again, and the study is made of the others and says so",
    )
    max_points: int = runtime(
        100, "most runs that grid, seeds and data_sizes may make of the experiments together", ge=1, le=1_000_000
    )


class Replicates(Section):
    """How often experiments are repeated with other seeds: `seeds: 3` in the configuration, or this section."""

    of: list[str] | None = result(
        None, "names of the experiments that are repeated, all points of a grid among them; null repeats all"
    )
    count: int = result(
        1,
        "number of runs, with train.seed and the seeds after it: other orders, masks and initial adapters, on the same "
        "rows and the same split",
        ge=1,
        le=10_000,
    )


class DataSizes(Section):
    """On how many rows experiments train: `data_sizes: [250, 500, all]` in the configuration, or this section."""

    of: list[str] | None = result(
        None, "names of the experiments that train on each size, all points of a grid among them; null means all"
    )
    rows: list[Size] = result(
        ...,
        "numbers of training rows, or all; the rows of a smaller size are among those of a larger one",
        min_length=1,
    )
    equal: Literal["steps", "epochs"] = result(
        "steps",
        "what is the same at all sizes: the optimiser steps, so that fewer rows are repeated more often; or the "
        "epochs, so that fewer rows train for fewer steps",
    )

    @field_validator("rows")
    @classmethod
    def rows_differ(cls, rows: list[int | str]) -> list[int | str]:
        if twice := [size for size in rows if rows.count(size) > 1]:
            raise ValueError(f"{twice[0]} is listed twice; name each size once")
        return rows
