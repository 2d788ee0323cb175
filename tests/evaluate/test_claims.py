"""Which claim a verdict makes, and whether it stands without the contaminated questions."""

from typing import Any

import numpy as np
import polars as pl

from dreamtune.evaluate.claims import ENOUGH, Measured, with_base, with_claims, without_contaminated
from dreamtune.evaluate.comparison import Block
from dreamtune.evaluate.verdict import Verdict, decide
from dreamtune.formats.questions import QUESTIONS
from dreamtune.settings.report import Comparison

FAST = Comparison(resamples=400)
HARD = {"name": "targets_hidden", "hard": True, "passed": True, "value": 0, "expected": "0 of 812", "source": "full"}


def scores(correct: np.ndarray) -> pl.DataFrame:
    count = len(correct)
    columns = {"example_id": np.arange(count), "cluster": np.arange(count), "sample": [0] * count}
    return pl.DataFrame(columns | {"gradable": [True] * count, "correct": correct.astype(bool)})


def table(known: np.ndarray, copied: int = 0, given: int = 0) -> pl.DataFrame:
    """The first `copied` questions are copies, the next `given` give their answer away."""
    count = len(known)
    ways = [None] * copied + ["ends_in_answer"] * given + [None] * (count - copied - given)
    copies = [7] * copied + [None] * (count - copied)
    columns = {"example_id": range(count), "split": ["test"] * count, "known_template": known}
    return pl.DataFrame(
        columns | {"copy_of": copies, "restated": [False] * count, "gives_away": ways}, schema=QUESTIONS
    )


def judged(measured: Measured, questions: pl.DataFrame | None, **gates: Any) -> tuple[Verdict, dict[str, Any]]:
    def again(accuracy: Block, nll: Block, few_shot: Block | None) -> Verdict:
        few = {"shots": 2, "accuracy": few_shot} if few_shot else None
        return decide(FAST, accuracy, nll, [HARD], {"full": True} | gates, few_shot=few)

    return with_claims(again(*measured.blocks(FAST)), measured, questions, FAST, again)


def measured(won: int, count: int = 100) -> Measured:
    """Of `count` questions the tuned model answers the first `won`, and base none."""
    return Measured(scores(np.zeros(count)), scores(np.arange(count) < won), None)


def test_the_claim_is_about_known_templates_or_new_ones() -> None:
    said = {}
    for known in (0, 1, 70, 100):
        verdict, claims = judged(measured(60), table(np.arange(100) < known))
        said[known] = verdict.detail.split("; ", 2)[2]
        assert (claims["templates"]["questions"], claims["templates"]["known"]) == (100, known)
        assert (claims["templates"]["accuracy"] is not None) == (known == 70) and claims["uncontaminated"] is None
    assert said == {
        0: "none of 100 held-out questions shares a template with a training row: the claim is about new templates",
        1: "1 of 100 held-out questions shares a template with a training row: the claim is mostly about new templates",
        70: "70 of 100 held-out questions share a template with a training row: the claim is mostly about new "
        "questions of known templates (0.0\u00a0% → 85.7\u00a0% of known templates, "
        "0.0\u00a0% → 0.0\u00a0% of new ones)",
        100: "100 of 100 held-out questions share a template with a training row: the claim is about new questions of "
        "known templates",
    }
    few, _ = judged(measured(60), table(np.arange(100) < ENOUGH - 1))
    assert "of new ones" not in few.detail, "too few questions for an accuracy of their own"


def test_contaminated_questions_are_left_out_beside_and_a_changed_verdict_is_said() -> None:
    verdict, claims = judged(measured(12), table(np.zeros(100), copied=8, given=2))
    assert verdict.name == "improved" and "0 → 12 of 100" in verdict.headline, "the headline has all questions"
    second = claims["uncontaminated"]
    assert (second["left_out"], second["copied"], second["restated"], second["gives_away"]) == (10, 8, 0, 2)
    assert second["accuracy"]["base"]["n"] == 90 and second["verdict"] == "no evidence of change" and second["changes"]
    assert verdict.detail.endswith("without its 10 contaminated questions the verdict is “no evidence of change”")
    assert "(8 copied, 0 restated, 2 give their answer away): No evidence of change: 0 → 2 of 90" in verdict.reasons[-1]
    verdict, claims = judged(measured(60), table(np.zeros(100), copied=8))
    assert not claims["uncontaminated"]["changes"] and "the verdict is" not in verdict.detail
    assert "Improved: 0 → 52 of 92" in verdict.reasons[-1]


def test_when_every_question_is_contaminated_nothing_is_left_to_say() -> None:
    verdict, claims = judged(measured(60), table(np.zeros(100), copied=100))
    assert claims["uncontaminated"]["accuracy"]["gain"]["value"] is None
    assert "not enough data" in verdict.reasons[-1] and claims["uncontaminated"]["changes"]


def test_without_a_table_or_a_valid_verdict_nothing_is_claimed() -> None:
    plain, claims = judged(measured(60), None)
    assert claims == {"templates": None, "uncontaminated": None} and "template" not in plain.detail
    invalid, claims = judged(measured(60), table(np.ones(100)), full=False)
    assert invalid.name == "invalid" and claims["templates"] is None and "template" not in invalid.detail


def test_a_sets_accuracy_without_contaminated_questions() -> None:
    one = measured(60)
    assert one.base is not None and one.tuned is not None
    assert without_contaminated(one.base, one.tuned, table(np.zeros(100)), FAST) is None
    block = without_contaminated(one.base, one.tuned, table(np.zeros(100), copied=20), FAST)
    assert block["left_out"] == 20 and block["tuned"]["value"] == 0.5


def test_the_few_shot_base_is_read_again_without_contaminated_questions() -> None:
    """The tuned model beats the few-shot base only on the 30 copied questions."""
    few_shot = scores((np.arange(100) >= 30) & (np.arange(100) < 60))
    measured = Measured(scores(np.zeros(100)), scores(np.arange(100) < 60), None, few_shot)
    verdict, claims = judged(measured, table(np.ones(100, bool), copied=30))
    assert verdict.name == "improved"
    second = claims["uncontaminated"]
    assert second["verdict"] == "improved over the zero-shot base only" and second["changes"]
    assert second["few_shot"]["base"]["n"] == 70 and second["few_shot"]["gain"]["value"] == 0


def test_a_base_that_never_learned_to_fill_in_masks_is_named() -> None:
    """A causal checkpoint that is adapted to diffusion starts from next to no right answers."""
    verdict, _ = judged(measured(won=40), None)
    assert "it never learned to fill in masks, and a gain over it" in with_base(verdict, "llama", "bound").sentence
    for family, kind in (("llama", "exact"), ("dream", "bound"), (None, "bound")):
        assert with_base(verdict, family, kind) == verdict
    invalid, _ = judged(measured(won=40), None, full=False)
    assert with_base(invalid, "llama", "bound") == invalid
