"""The few-shot base in summary and report: the base model's answers with worked examples before each question."""

from collections.abc import Mapping
from typing import Any

from dreamtune.evaluate.few_shot import compare_few_shot
from dreamtune.formats.answers import GENERATION_FILE
from dreamtune.formats.names import FEW_SHOT_BASE, FEW_SHOT_TUNED, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import RATES_FILE, SCORES_FILE
from dreamtune.readable import DASH, number
from dreamtune.settings.report import Comparison

NAMES = {FEW_SHOT_BASE: "few-shot base", FEW_SHOT_TUNED: "few-shot tuned"}  # as the page writes them
COLUMNS = ("base", NAMES[FEW_SHOT_BASE], "tuned", NAMES[FEW_SHOT_TUNED])


def read_few_shot(
    reads: Reads, questions: str, setting: str, readings: Mapping[str, str], comparison: Comparison
) -> dict[str, Any] | None:
    """Return the comparison of the tuned model with the few-shot base; None if this did not answer.

    Args:
        reads: the experiment's version folders.
        questions: a question set.
        setting: a generation setting.
        readings: by name in the result, the column of scores.parquet.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        "shots"; "unread", the share of the few-shot base's answers in which no answer was found; the readings, blocks
        whose "base" is the few-shot base; "both", the same for the tuned model with examples or None; and "answers", by
        who answered with examples, what `generation` took and the `scores` counted.
    """
    key = f"{questions}/{setting}"
    tables = {who: reads.table(f"scores/{key}/{who}", SCORES_FILE) for who in (TUNED, *NAMES)}
    blocks = compare_few_shot(tables, readings, comparison)
    if blocks is None:
        return None
    answers = {
        who: {
            "generation": reads.json(f"answers/{key}/{who}", GENERATION_FILE),
            "scores": reads.json(f"scores/{key}/{who}", RATES_FILE),
        }
        for who in NAMES
        if tables[who] is not None
    }
    base = answers[FEW_SHOT_BASE]
    found = {"shots": base["generation"]["few_shot"]["shots"], "unread": base["scores"].get("parse_failed")}
    return {**found, **blocks, "answers": answers}


def sides(block: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return `generation` and `scores` by the name of who answered, in the order of the page's columns.

    Args:
        block: one of summary.json's comparisons.
    """
    worked = {NAMES[who]: answers for who, answers in (block["few_shot"] or {"answers": {}})["answers"].items()}
    answered = {"base": block["base"], "tuned": block["tuned"]} | worked
    return {who: answered[who] for who in COLUMNS if who in answered}


def by_column(block: dict[str, Any], reading: str) -> dict[str, dict[str, Any]]:
    """Return the estimates of one reading by the name of who answered: base, few-shot base, tuned, few-shot tuned."""
    few = block["few_shot"] or {}
    estimates = [block[reading]["base"], few.get(reading, {}).get("base"), block[reading]["tuned"]]
    estimates.append(few["both"][reading]["tuned"] if few.get("both") else None)
    return {who: estimate for who, estimate in zip(COLUMNS, estimates, strict=True) if estimate}


def prompt_note(block: dict[str, Any]) -> str:
    """Return how the few-shot prompts were made, as a sentence; "" where there are none."""
    few = block["few_shot"]
    if not few:
        return ""
    run, shots = few["answers"][FEW_SHOT_BASE]["generation"], few["shots"]
    made, seed = run["few_shot"], run.get("settings", {}).get("seed")
    examples = f"{shots} worked training example{'' if shots == 1 else 's'}"
    longest = made.get("longest_prompt")
    return (
        f"few-shot: {examples} before each question, as {made.get('form', DASH)}, drawn for each question with seed "
        f"{number(seed)} from {number(made.get('rows'))} training rows with different questions; the longest "
        f"prompt has {number(longest)} tokens"
    )
