"""Ticks and labels of the charts: they cover the data, and no two labels of an axis are the same text."""

import json
import random
import re
from typing import Any

import pytest

from dreamtune.report.axes import in_unit, labels, ticks, within
from report_page import Page

pytest_plugins = "report_page"  # its fixture


@pytest.mark.parametrize(
    ("low", "high", "whole", "said"),
    [
        (0, 1, True, ["0", "1"]),  # truncation that would lose one answer was labelled 0 1 1
        (0, 0, True, ["0", "1"]),
        (0, 2e-3, False, ["0", "5e-4", "1e-3", "1.5e-3", "2e-3"]),
        (0, 2e-5, False, ["0", "5e-6", "1e-5", "1.5e-5", "2e-5"]),  # a learning rate began with 0e+0
        (0, 340, True, ["0", "100", "200", "300", "400"]),
        (0.53, 1.61, False, ["0.5", "1.0", "1.5", "2.0"]),
        (7, 7, False, ["2.5", "5.0", "7.5", "10.0", "12.5"]),
        (-1.5, 2, False, ["−2", "−1", "0", "1", "2"]),
        (0, 12_500, True, ["0", "5,000", "10,000", "15,000"]),
    ],
)
def test_labels_of_known_axes(low: float, high: float, whole: bool, said: list[str]) -> None:
    assert labels(ticks(low, high, whole=whole)) == said


def test_ticks_cover_the_data_and_their_labels_differ() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        low = rng.choice([0.0, rng.uniform(-1, 1) * 10 ** rng.uniform(-7, 6)])
        high = low + 10 ** rng.uniform(-7, 6)
        most, whole = rng.choice([3, 4, 5]), rng.random() < 0.3
        found = ticks(low, high, most, whole)
        texts = labels(found)
        assert found[0] <= low + 1e-8 * (high - low) and found[-1] >= high - 1e-8 * (high - low)
        assert 2 <= len(found) <= most + 1
        assert len(set(texts)) == len(texts), (low, high, texts)
        assert not any(re.fullmatch(r"[−-]?0*\.?0*e.*", text) for text in texts), texts
        assert not whole or all(isinstance(tick, int) for tick in found)


def test_ticks_within_the_data_never_pass_its_end() -> None:
    assert within(0, 375, whole=True) == [0, 100, 200, 300]
    assert within(1, 2, whole=True) == [1, 2] and within(0, 8, whole=True) == [0, 2, 4, 6, 8]
    assert within(1, 1, whole=True) == [1, 2]


def test_durations_are_small_numbers() -> None:
    assert in_unit(119) == (1.0, "seconds") and in_unit(7199) == (60.0, "minutes") and in_unit(90_000)[1] == "hours"


def test_every_axis_of_numbers_in_the_page_has_ticks_and_labels_of_its_own(made: Any) -> None:
    """An axis left to Vega could be labelled `0 1 1` or `0e+0`."""
    scripts = [text for text in Page(made[0]).scripts if text.startswith("{") and '"$schema"' in text]
    assert len(scripts) == 9
    for script in scripts:
        for axis in axes(json.loads(script)):
            texts, values = re.fullmatch(r"(\[.*\])\[indexof\((\[.*\]), datum.value\)\]", axis["labelExpr"]).groups()
            assert json.loads(values) == axis["values"] and len(set(json.loads(texts))) == len(axis["values"]) > 1


def axes(spec: Any) -> list[dict[str, Any]]:
    """Return the axes of numbers in a chart; each must have ticks."""
    found = []
    for layer in spec.get("layer", [spec]):
        for name in ("x", "y"):
            channel = layer.get("encoding", spec.get("encoding", {})).get(name, {})
            if channel.get("type") == "quantitative" and "axis" in channel:
                found.append(channel["axis"])
    assert found
    return found
