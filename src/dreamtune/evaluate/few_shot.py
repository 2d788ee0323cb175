"""The few-shot base: the base model's answers with worked training examples before each question.

A base model that never saw the template's format scores next to nothing, so that beating it shows little more than that
the format was learned. Worked examples show it the format. As far as it learned the format from them (see
`format_not_shown`), what the tuned model gains over these answers is not the format alone. So "improved" needs both
bases beaten, each by the same paired test at the same level. That is an intersection-union test (Berger 1982,
Technometrics 24:295): it needs no correction for two tests.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dreamtune.evaluate.comparison import Block, compare_scores
from dreamtune.formats.names import FEW_SHOT_BASE, FEW_SHOT_TUNED, TUNED
from dreamtune.readable import percent
from dreamtune.settings.report import Comparison

# ASSUME: with more answers in which none was found, the examples did not show the base the format.
UNREAD = 0.5


def compare_few_shot(
    scores: Mapping[str, pl.DataFrame | None], readings: Mapping[str, str], comparison: Comparison
) -> Block | None:
    """Compare the tuned model with the few-shot base, on the same questions.

    Args:
        scores: scores.parquet by who answered: "tuned", "few-shot-base" and perhaps "few-shot-tuned".
        readings: by name in the result, the column of scores.parquet.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        a block of `compare_scores` for each reading, in which "base" is the few-shot base, and "tuned" answers without
        examples; and "both" with the same blocks for the tuned model with examples, None without its answers. The
        result is None without answers of the few-shot base.

    Raises:
        UserError: they do not answer the same questions.
    """
    base, tuned, with_examples = (scores.get(who) for who in (FEW_SHOT_BASE, TUNED, FEW_SHOT_TUNED))
    if base is None or tuned is None:
        return None

    def against(answers: pl.DataFrame) -> Block:
        return {name: compare_scores(base, answers, column, comparison) for name, column in readings.items()}

    return against(tuned) | {"both": None if with_examples is None else against(with_examples)}


def few_shot_name(shots: int) -> str:
    """Return the name of the few-shot base in sentences.

    >>> few_shot_name(4)
    'the base with 4 worked examples'
    """
    return f"the base with {shots} worked {'example' if shots == 1 else 'examples'}"


def format_not_shown(few_shot: Mapping[str, Any]) -> str | None:
    """Return the clause that the examples did not teach the base the format; None if they did, or if it is not known.

    Args:
        few_shot: "shots", and "unread", the share of the few-shot base's answers in which no answer was found.

    >>> format_not_shown({"shots": 1, "unread": 0.9})
    'no answer was found in 90\\xa0% of the answers of the base with 1 worked example'
    """
    unread = few_shot.get("unread")
    if unread is None or unread <= UNREAD:
        return None
    return f"no answer was found in {percent(unread, 0)} of the answers of {few_shot_name(few_shot['shots'])}"


def few_shot_fact(few_shot: Mapping[str, Any], asked: int) -> str:
    """Return how many questions the few-shot base answers correctly, as a clause of the headline.

    Args:
        few_shot: "shots", and "accuracy", a block of `compare_few_shot`.
        asked: questions of the clause before; where the few-shot base has another number, the clause names it.

    >>> few_shot = {"shots": 4, "accuracy": {"base": {"value": 0.85, "n": 20}}}
    >>> few_shot_fact(few_shot, 20), few_shot_fact(few_shot, 21)
    ('few-shot base 17', 'few-shot base 17 of 20')
    """
    base = few_shot["accuracy"]["base"]
    if base["value"] is None:
        return "few-shot base: not enough data"
    right = f"{base['value'] * base['n']:.1f}".removesuffix(".0")
    return f"few-shot base {right}" + (f" of {base['n']}" if base["n"] != asked else "")
