"""Settings of the comparison that the verdict rests on, and of the report."""

from typing import Literal

from dreamtune.settings.base import NAME, SEED, Float, Section, result


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
    license: str | None = result(
        None,
        "licence of the trained weights for their model card, by the hub's identifiers, such as apache-2.0; null takes "
        "that which the base model's files state, else unknown",
        pattern=r"^[a-z0-9][a-z0-9.+-]*$",
        max_length=NAME,
    )
    base_model: str | None = result(
        None,
        "name of the base model on the hub, OWNER/NAME, for the model card; null takes model.path if that is one, and "
        "names none for a local folder",
        pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$",
    )
