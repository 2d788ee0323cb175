"""benchmarks/study_statistics.py: its answers are what it says, and its tables at toy scale."""

import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import _tables
import study_statistics as benchmark


def test_models_answer_with_the_accuracy_that_was_asked_for() -> None:
    world = benchmark.World(1)
    right = world.answers(world.questions(20_000), np.array([0.2, 0.4, 0.8]))
    assert right.mean(axis=1) == pytest.approx([0.2, 0.4, 0.8], abs=0.015)
    assert 0.2 < np.corrcoef(right[0], right[1])[0, 1] < 0.4


def test_seeds_move_the_gain_by_the_points_that_were_asked_for() -> None:
    world = benchmark.World(1)
    true = np.concatenate([world.gains(10, 100, 0.1, 0.05)[1] for _ in range(30)])
    assert (true.mean(), true.std()) == pytest.approx((0.1, 0.05), abs=0.005)


@pytest.mark.parametrize("part", [benchmark.family, benchmark.seeds, benchmark.best_of_nine, benchmark.curves])
def test_tables_at_toy_scale(part, capsys: pytest.CaptureFixture[str]) -> None:
    part(lambda usual: 2)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == {"family": 4, "seeds": 13, "best_of_nine": 9, "curves": 11}[part.__name__]


def test_a_broken_bound_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    monkeypatch.setattr(_tables, "broken", noted)
    assert benchmark.share("x", 5, 100, high=0.05) == "5.0 ± 2.2" and not noted
    benchmark.share("x", 8, 100, high=0.05, errors=2)
    assert not noted
    benchmark.share("x", 8, 100, high=0.05)
    assert noted == ["x: 8.00 %, expected 0 to 5 %"]
