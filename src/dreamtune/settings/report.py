"""Settings of the comparison that the verdict rests on, and of the report."""

from typing import Literal

from dreamtune.settings.base import SEED, Float, Section, result


class Comparison(Section):
    """Settings of the paired comparison that decides the verdict, fixed before any result is seen."""

    primary: Literal["accuracy", "nll"] = result(
        "accuracy", "the measure that decides the verdict: accuracy, or the held-out negative log-likelihood (nll)"
    )
    alpha: Float = result(0.05, "significance level of the two-sided test", gt=0.0, lt=1.0)
    resamples: int = result(
        10_000, "random resamples in each bootstrap and each permutation test", ge=100, le=10_000_000
    )
    seed: int = result(0, "seed of bootstrap and permutation test", **SEED)


class ReportConfig(Section):
    """Settings of the report."""

    title: str | None = result(None, "heading of the report; null takes the experiment's name")
    examples: int = result(60, "questions whose answers by base and tuned are shown side by side", ge=0, le=100_000)
