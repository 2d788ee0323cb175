"""The comparison that the verdict rests on, and what the report shows."""

from typing import Literal

from dreamtune.settings.base import Float, Section, result


class Comparison(Section):
    """What the verdict is decided on, fixed before anything is seen."""

    primary: Literal["accuracy", "nll"] = result("accuracy", "the measure that decides the verdict")
    alpha: Float = result(0.05, "two-sided significance level", gt=0.0, lt=1.0)
    resamples: int = result(10_000, "resamples of bootstrap and permutation", ge=100)
    seed: int = result(0, "seed of bootstrap and permutation")


class ReportConfig(Section):
    """What the report shows."""

    title: str | None = result(None, "heading of the report; null takes the experiment's name")
    examples: int = result(60, "answers shown side by side", ge=0)
