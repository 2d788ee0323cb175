"""Learning curves over steps: the seeds are the replicates, and what is not known beforehand is not foretold."""

import json
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from dreamtune.formats.reads import Reads
from dreamtune.study.steps import course_of, fit_course

STEPS = range(50, 1601, 50)
OFFSETS = (3.0, 3.1, 2.9)


def straight(slopes: tuple[float, ...] = (-0.1, -0.1, -0.1), steps: Any = STEPS) -> list[dict[int, float]]:
    return [{s: at + slope * log2(max(s, 1)) for s in steps} for at, slope in zip(OFFSETS, slopes, strict=True)]


def test_a_straight_fall_goes_on_and_offsets_of_seeds_are_no_error() -> None:
    course = fit_course(straight(), constant=True)
    assert course.per_doubling and course.twice and (course.steps, course.seeds) == (1600, 3)
    for found in (course.per_doubling, course.twice):
        assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_seeds_that_fall_at_different_rates_are_the_error() -> None:
    """Student's t over three slopes: mean -0.1, SD 0.01, 4.303 * 0.01 / sqrt(3)."""
    trend = fit_course(straight((-0.1, -0.09, -0.11)), constant=True).per_doubling
    assert trend and trend.high - trend.value == pytest.approx(0.02484, abs=1e-4)


def test_what_the_first_half_foretold_wrongly_widens_the_limits() -> None:
    bent = [{s: at + 0.05 * log2(s / 400) ** 3 / 8 for s in STEPS} for at in OFFSETS]
    course = fit_course(bent, constant=True)
    assert course.twice and course.per_doubling
    assert course.twice.high - course.twice.value > 10 * (course.per_doubling.high - course.per_doubling.value) + 0.01


def test_a_schedule_that_falls_with_the_steps_foretells_nothing() -> None:
    course = fit_course(straight(), constant=False)
    assert course.per_doubling and course.twice is None
    assert course.refusal and "the learning rate changes with the steps (train.schedule)" in course.refusal


def test_what_is_refused() -> None:
    def why(curves: list[dict[int, float]]) -> str:
        course = fit_course(curves, constant=True)
        assert course.twice is None and course.refusal
        return course.refusal

    assert why(straight()[:2]) == "nothing is foretold from 2 seeds; 3 are needed"
    assert why([*straight()[:2], {50: 1.0}]).endswith("the seeds trained for different numbers of steps")
    assert "3 validations; 4 are needed (train.validate_every)" in why(straight(steps=[0, 500, 1000, 1500]))
    assert "the first half has 2 validations" in why(straight(steps=range(300, 1501, 300)))
    rng = np.random.default_rng(0)
    noisy = [{s: value + rng.normal(0, 0.2) for s, value in curve.items()} for curve in straight()]
    assert why(noisy).startswith("nothing is foretold: its limits would be")


def test_the_coverage_of_the_forecast_by_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 93 % of 60 studies for each curve; benchmarks/step_statistics.py has the figures."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import step_statistics as benchmark

    covered, foretold = 0, 0
    for name in ("0.1 nats per doubling", "falls as step^-0.25", "towards 1.2, as step^-0.5", "flat"):
        truth, rng = benchmark.COURSES[name], np.random.default_rng(5)
        change = float(truth(np.array(3200.0)) - truth(np.array(1600.0)))
        for _ in range(60):
            ahead = fit_course(benchmark.trainings(rng, truth, seeds=3, noise=0.005), constant=True).twice
            foretold += ahead is not None
            covered += ahead is not None and ahead.low <= change <= ahead.high
    assert foretold > 200 and covered >= 0.93 * foretold


@pytest.mark.parametrize(
    ("schedule", "warmup", "foretold"), [("constant", 0.03, True), ("constant", 0.2, False), ("cosine", 0.03, False)]
)
def test_log_and_schedule_are_read_from_the_runs(tmp_path: Path, schedule: str, warmup: float, foretold: bool) -> None:
    runs = []
    for number, curve in enumerate(straight()):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [{"step": 0, "validation_nll": 9.0}, *({"step": s, "validation_nll": v} for s, v in curve.items())]
        (folder / "training.json").write_text(json.dumps({"validation": lines}))
        settings = {"train": {"schedule": schedule, "warmup": warmup}}
        (folder / "manifest.json").write_text(json.dumps({"settings": settings}))
        runs.append(Reads({"full": folder}))
    course = course_of(runs)
    assert course and course.per_doubling and (course.twice is not None) == foretold
    (tmp_path / "0/training.json").write_text(json.dumps({"validation": []}))
    assert course_of(runs) is None
