"""Learning curves: the trend within what was tried, and the forecast under its rule."""

import numpy as np
import pytest

from dreamtune.study.curves import fit_curve, refusal

SIZES = [125, 250, 500, 1000] * 3
RNG = np.random.default_rng(3)


def runs(accuracies: list[float], n: int = 2000) -> np.ndarray:
    """Return answers whose share of right ones is exactly as given, [runs, n]."""
    return (np.arange(n) < n * np.array(accuracies)[:, None]).astype(float)


def test_a_straight_curve_is_foretold_to_go_on() -> None:
    curve = fit_curve(SIZES, runs([0.2, 0.26, 0.32, 0.38] * 3))
    assert curve.per_doubling and curve.per_doubling.value == pytest.approx(0.06)
    assert curve.next_doubling and curve.next_doubling.value == pytest.approx(0.06)
    assert curve.next_doubling.low < 0.06 < curve.next_doubling.high and curve.refusal is None


def test_a_curve_that_flattens_is_foretold_to_flatten() -> None:
    curve = fit_curve(SIZES, runs([0.2, 0.3, 0.37, 0.41] * 3))
    assert curve.per_doubling and curve.next_doubling
    assert curve.next_doubling.value == pytest.approx(0.01)  # the parabola through 10, 7, 4
    assert curve.per_doubling.value == pytest.approx(0.07)


def test_runs_that_differ_make_the_forecast_less_certain() -> None:
    steady = fit_curve(SIZES, runs([0.2, 0.26, 0.32, 0.38] * 3))
    noisy = fit_curve(SIZES, runs([0.2, 0.26, 0.32, 0.38, 0.22, 0.27, 0.3, 0.4, 0.18, 0.25, 0.34, 0.36]))
    assert steady.next_doubling and noisy.next_doubling
    assert steady.next_doubling.error_runs < 1e-9 < noisy.next_doubling.error_runs


def test_what_the_rule_refuses() -> None:
    few, many = runs([0.2, 0.3, 0.4] * 3), runs([0.2, 0.3, 0.4, 0.5])
    assert fit_curve([1, 2, 4] * 3, few).refusal == "nothing is foretold from 3 sizes; 4 are needed"
    assert fit_curve([1, 2, 4, 8], many).refusal == "nothing is foretold from 4 runs; 6 are needed"
    assert fit_curve([1, 2, 4, 8], many).next_doubling is None
    assert fit_curve([8, 8], runs([0.2, 0.3])).per_doubling is None
    assert refusal(np.array([1.0, 2.0, 4.0, 8.0, 8.0, 8.0]), 5) == (
        "nothing is foretold from fewer than 6 questions or clusters"
    )


def test_a_largest_size_that_the_smaller_ones_did_not_foretell_stops_the_forecast() -> None:
    sizes = [62, 125, 250, 500, 1000] * 3
    curve = fit_curve(sizes, runs([0.1, 0.2, 0.3, 0.4, 0.4] * 3))
    assert curve.next_doubling is None
    assert curve.refusal == "nothing is foretold: the largest size is -0.1 off what the smaller ones foretell"


def test_limits_that_are_far_apart_stop_the_forecast() -> None:
    curve = fit_curve(SIZES, runs([0.2, 0.26, 0.32, 0.38] * 3, n=50))
    assert curve.next_doubling is None and curve.refusal
    assert curve.refusal.startswith("nothing is foretold: its limits would be") and "0.2 at most" in curve.refusal


def test_the_nll_is_a_ratio_of_sums_in_nats() -> None:
    tokens = RNG.integers(10, 100, 300).astype(float)
    nll = tokens * np.array([2.0, 1.8, 1.6, 1.4] * 3)[:, None]
    curve = fit_curve(SIZES, nll, weights=tokens)
    assert curve.means[:2] == pytest.approx((2.0, 1.8))
    assert curve.next_doubling and curve.next_doubling.value == pytest.approx(-0.2)


def test_unusable_runs_are_refused() -> None:
    for sizes, values in (([1, 2], np.zeros((3, 4))), ([0, 1], np.zeros((2, 4))), ([1], np.full((1, 2), np.nan))):
        with pytest.raises(ValueError, match="positive sizes"):
            fit_curve(sizes, values)
