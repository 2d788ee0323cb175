"""The same questions under several decoders and canvases: pairs, early ends, and whether the verdict holds."""

from typing import Any

import polars as pl
import pytest

from dreamtune.evaluate.comparison import compare_scores
from dreamtune.evaluate.decoders import agreement, compare_settings
from dreamtune.settings.report import Comparison

COMPARISON = Comparison(resamples=100)


def scores(right: int, questions: int = 40) -> pl.DataFrame:
    """Return scores.parquet, as far as it is read, with the first `right` of the questions right."""
    rows = range(questions)
    correct = [row < right for row in rows]
    return pl.DataFrame(
        {"example_id": rows, "cluster": rows, "sample": [0] * questions, "gradable": True, "correct": correct}
    )


def block(base: int, tuned: int, early: int) -> dict[str, Any]:
    accuracy = compare_scores(scores(base), scores(tuned), "correct", COMPARISON)
    sides = {who: {"scores": {"early_ends": ends}} for who, ends in (("base", 0), ("tuned", early))}
    return {"accuracy": accuracy, **sides}


RIGHT = {"canvas-64": 30, "greedy": 32, "sampled": 9, "whole": 12}
BLOCKS = {name: block(10, right, early=40 - right) for name, right in RIGHT.items()}
TUNED = {name: scores(right) for name, right in RIGHT.items()}


def test_each_setting_is_compared_with_the_headline_question_by_question() -> None:
    rows = compare_settings(BLOCKS, TUNED, lambda block: f"{block['accuracy']['gain']['won']} won", COMPARISON)
    assert [row["setting"] for row in rows] == ["greedy", "canvas-64", "whole"]  # samples are another question
    assert [row["canvas"] for row in rows] == [None, 64, None]
    assert [row["verdict"] for row in rows] == ["22 won", None, "2 won"]
    assert [row["against_headline"]["value"] for row in rows] == pytest.approx([0.0, -0.05, -0.5])
    assert (rows[1]["against_headline"]["won"], rows[1]["against_headline"]["lost"]) == (0, 2)
    assert rows[2]["gain"]["value"] == pytest.approx(0.05) and rows[2]["early_ends"] == {"base": 0, "tuned": 28}


def test_one_decoder_agrees_with_nothing() -> None:
    assert agreement({}) is None and agreement({"greedy": "improved"}) is None
    three = {"greedy": "improved", "whole": "improved", "wide": "no evidence of change"}
    assert agreement(three) == (
        "the verdict is not the same under each decoder: improved under greedy, improved under whole, "
        "no evidence of change under wide"
    )
