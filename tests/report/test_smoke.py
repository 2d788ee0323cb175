"""What the report shows of the smoke run: its paragraph, and the curve of its range test."""

import json
from pathlib import Path
from typing import Any

import vl_convert

from dreamtune.report.recipe import find_recipe, recipe_rows
from dreamtune.report.smoke_view import range_test_figure
from dreamtune.smoke.range_test import Curve, rates
from report_fixture import HOSTILE, write_reads
from report_page import Page, render


def found() -> dict[str, Any]:
    """Return a test whose loss falls to half at a rate of 1e-3, and then diverges."""
    curve = Curve()
    for rate in rates():
        curve.add(rate, 1 - 500 * rate if rate < 1.1e-3 else 1e6, 1.0)
        if curve.ended:
            break
    return curve.result()


def test_the_curve_is_drawn_with_both_rates_and_without_what_diverged() -> None:
    figure = range_test_figure(found())
    assert figure is not None
    assert "1e-3" in figure.caption and "1e-4" in figure.caption and "a tenth of that rate" in figure.caption
    svg = vl_convert.vegalite_to_svg(figure.spec | {"width": 400, "autosize": "pad"})
    assert "learning rate" in svg and "1e-5" in svg
    drawn = figure.spec["layer"][0]["data"]["values"]
    assert max(point["loss"] for point in drawn) <= 1.5 and len(drawn) == 31
    assert range_test_figure({}) is None


def test_the_page_has_paragraph_and_curve_where_smoke_wrote_them(tmp_path: Path) -> None:
    reads = write_reads(tmp_path)
    html = render(reads, tmp_path / "without")[0]
    assert "Said after the smoke run" not in html and "Range test" not in html
    (reads["smoke"] / "range_test.json").write_text(json.dumps(found()))
    training = reads["smoke"] / "training.json"
    words = {"words": f"ALARM: the loss did not fall {HOSTILE}", "alarms": ["loss"], "predicted_minutes": None}
    training.write_text(json.dumps(json.loads(training.read_text()) | words))
    html, summary, _ = render(reads, tmp_path / "with")
    text = Page(html).text
    assert "Said after the smoke run" in text and "ALARM: the loss did not fall" in text and HOSTILE not in html
    assert "Range test" in text and summary["smoke"]["alarms"] == ["loss"]


def test_the_recipe_names_the_rate_that_was_found() -> None:
    settings = {"full": {"train": {"learning_rate": "find", "schedule": "cosine"}}}
    for training, words in (({"learning_rate": 7.9e-4}, "7.9e-4, cosine"), ({}, "cosine")):
        rows = dict(recipe_rows(find_recipe(settings, training, {}, {}, {})))
        assert rows["Learning rate"] == words
