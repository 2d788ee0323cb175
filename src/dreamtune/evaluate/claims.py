"""What the verdict is a claim about: known templates or new ones, and what is left without contaminated questions.

Both come from questions.parquet (see `formats.questions`). A question that training rows copy or restate, or that gives
its answer away, is *contaminated*: the primary measure is read a second time without it. A question whose template a
training row shares is not; it makes the claim one about new questions of known templates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from dreamtune.evaluate.comparison import Block, compare_nll, compare_scores, nothing
from dreamtune.evaluate.verdict import Verdict
from dreamtune.formats.likelihood import BOUND
from dreamtune.inputs.checkpoint_format import CAUSAL
from dreamtune.readable import percent
from dreamtune.settings.report import Comparison

ENOUGH = 30  # questions that a group needs for its accuracy to be said
CONTAMINATED = {
    "copied": pl.col("copy_of").is_not_null(),
    "restated": pl.col("restated"),
    "gives_away": pl.col("gives_away").is_not_null(),
}
Blocks = tuple[Block, Block, Block | None]  # of accuracy, of likelihood, of accuracy against the few-shot base
Decide = Callable[[Block, Block, Block | None], Verdict]  # the verdict on such blocks


@dataclass(frozen=True)
class Measured:
    """What was measured on the test split; None where a stage did not run.

    Attributes:
        base, tuned: scores.parquet of the greedy answers.
        draws: likelihood.parquet.
        few_shot: scores.parquet of the base with worked examples.
    """

    base: pl.DataFrame | None
    tuned: pl.DataFrame | None
    draws: pl.DataFrame | None
    few_shot: pl.DataFrame | None = None

    def of(self, kept: pl.Expr) -> "Measured":
        """Return what was measured on the questions that `kept`, a condition on example_id, chooses."""
        tables = (self.base, self.tuned, self.draws, self.few_shot)
        return Measured(*(None if table is None else table.filter(kept) for table in tables))

    def blocks(self, comparison: Comparison) -> Blocks:
        """Return the blocks of accuracy, of likelihood, and of accuracy against the few-shot base, if there is one."""

        def against(base: pl.DataFrame | None) -> Block:
            if base is None or self.tuned is None:
                return nothing("questions")
            return compare_scores(base, self.tuned, "correct", comparison)

        nll = nothing("rows") if self.draws is None else compare_nll(self.draws, comparison)
        return against(self.base), nll, None if self.few_shot is None else against(self.few_shot)


def contaminated(questions: pl.DataFrame) -> pl.Series:
    """Return the example ids of the contaminated questions."""
    return questions.filter(pl.any_horizontal(*CONTAMINATED.values()))["example_id"]


def without_contaminated(
    base: pl.DataFrame, tuned: pl.DataFrame, questions: pl.DataFrame, comparison: Comparison
) -> Any:
    """Return the accuracy without contaminated questions, and how many are `left_out`; None if there are none."""
    ids = contaminated(questions)
    left_out = base.filter(pl.col("example_id").is_in(ids.implode()))["example_id"].n_unique()
    if not left_out:
        return None
    kept = Measured(base, tuned, None).of(~pl.col("example_id").is_in(ids.implode()))
    return kept.blocks(comparison)[0] | {"left_out": left_out}


def with_claims(
    verdict: Verdict, measured: Measured, questions: pl.DataFrame | None, comparison: Comparison, decide: Decide
) -> tuple[Verdict, dict[str, Any]]:
    """Return the verdict with the clauses on what it claims, and the numbers behind them.

    Args:
        verdict: on all questions.
        measured: what it was decided on.
        questions: questions.parquet of the test split; None if there is none.
        comparison: primary measure, level and resamples.
        decide: returns the verdict on other blocks by the same rule.

    Returns:
        The verdict; `templates` (see `template_claim`) and `uncontaminated` (see `second_reading`), None where there
        is nothing to say.
    """
    table = measured.base if comparison.primary == "accuracy" else measured.draws
    if questions is None or table is None or verdict.name == "invalid":
        return verdict, {"templates": None, "uncontaminated": None}
    asked = questions.filter(pl.col("example_id").is_in(table["example_id"].unique().implode()))
    templates, words = template_claim(asked, measured, comparison)
    second, more, reasons = second_reading(verdict, asked, measured, comparison, decide)
    detail = "; ".join(text for text in (verdict.detail, words, more) if text)
    claims = {"templates": templates, "uncontaminated": second}
    return replace(verdict, detail=detail, reasons=(*verdict.reasons, *reasons)), claims


def with_base(verdict: Verdict, family: str | None, kind: str) -> Verdict:
    """Return the verdict, with a clause where a checkpoint of an autoregressive family was asked to fill in masks.

    Args:
        verdict: on all questions.
        family: of the model (`model_type`), as training recorded it.
        kind: of the likelihood, "bound" where masks were filled in, "exact" of a causal model.
    """
    if verdict.name == "invalid" or family not in CAUSAL or kind != BOUND:
        return verdict
    said = (
        f"the base is a {family} checkpoint: unless it was adapted before, it never learned to fill in masks, and a "
        "gain over it says little (compare with a run under model.attention causal)"
    )
    return replace(verdict, detail="; ".join(filter(None, (verdict.detail, said))))


def template_claim(
    asked: pl.DataFrame, measured: Measured, comparison: Comparison
) -> tuple[dict[str, Any] | None, str]:
    """Return the numbers of questions, in all and of `known` templates, each group's accuracy, and a clause on them.

    `accuracy` has the blocks "known" and "new"; it is None if one of them has fewer than ENOUGH questions.
    """
    if not asked.height:
        return None, ""
    known = asked.filter("known_template")["example_id"].implode()
    count, total = asked["known_template"].sum(), asked.height
    groups = {"known": pl.col("example_id").is_in(known), "new": ~pl.col("example_id").is_in(known)}
    blocks = {name: measured.of(group).blocks(comparison)[0] for name, group in groups.items()}
    enough = min(block["base"]["n"] for block in blocks.values()) >= ENOUGH
    numbers = {"questions": total, "known": count, "accuracy": blocks if enough else None}
    shared = f"{count} of {total} held-out questions" if count else f"none of {total} held-out questions"
    shared += " shares a template with a training row" if count <= 1 else " share a template with a training row"
    about = "new questions of known templates" if 2 * count >= total else "new templates"
    words = f"{shared}: the claim is {'mostly ' if 0 < count < total else ''}about {about}"
    if enough:
        said = {"known": "of known templates", "new": "of new ones"}
        values = (
            f"{percent(block['base']['value'])} → {percent(block['tuned']['value'])} {said[name]}"
            for name, block in blocks.items()
        )
        words += f" ({', '.join(values)})"
    return numbers, words


def second_reading(
    verdict: Verdict, asked: pl.DataFrame, measured: Measured, comparison: Comparison, decide: Decide
) -> tuple[dict[str, Any] | None, str, tuple[str, ...]]:
    """Return the reading without contaminated questions, a clause if it changes the verdict, and reasons.

    The first value has the number of questions `left_out` in all and by why, the `verdict` and whether it `changes`,
    and the blocks `accuracy`, `nll` and `few_shot`; it is None without contaminated questions.
    """
    ids = contaminated(asked)
    if not len(ids):
        return None, "", ()
    accuracy, nll, few_shot = measured.of(~pl.col("example_id").is_in(ids.implode())).blocks(comparison)
    again = decide(accuracy, nll, few_shot)
    by_why = {name: asked.filter(condition).height for name, condition in CONTAMINATED.items()}
    changes = again.name != verdict.name
    counts = f"{by_why['copied']} copied, {by_why['restated']} restated, {by_why['gives_away']} give their answer away"
    reason = (
        f"without the {len(ids)} test questions that training rows copy or restate, or that give their answer away "
        f"({counts}): {again.headline}"
    )
    clause = f"without its {len(ids)} contaminated questions the verdict is “{again.name}”" if changes else ""
    found = {"left_out": len(ids), **by_why, "verdict": again.name, "changes": changes}
    return found | {"accuracy": accuracy, "nll": nll, "few_shot": few_shot}, clause, (reason,)
