"""Successive halving: who stops, when and why."""

import pytest

from dreamtune.study.halving import halve

CURVES = {f"p{i}": {0.25: 2.0 - 0.1 * i, 0.5: 1.0 + 0.1 * i} for i in range(9)}


def test_the_better_half_goes_on_each_time() -> None:
    decisions = halve(CURVES, [0.5, 0.25])
    first, second = decisions[:9], decisions[9:]
    assert [d.point for d in first if not d.stops] == ["p8", "p7", "p6", "p5", "p4"]
    assert [d.point for d in second] == ["p4", "p5", "p6", "p7", "p8"]
    assert [d.stops for d in second] == [False, False, False, True, True]


def test_each_decision_has_its_reason() -> None:
    worst = halve(CURVES, [0.25])[-1]
    assert worst.reason == "stopped: place 9 of 9 by validation NLL (2) after 25 % of its steps"
    assert halve(CURVES, [0.25])[0].reason.startswith("goes on: place 1 of 9")


def test_without_shares_nothing_stops() -> None:
    assert halve(CURVES, []) == []


def test_a_loss_that_is_not_finite_always_stops() -> None:
    curves = {"a": {0.5: float("nan")}, "b": {0.5: 1.0}, "c": {0.5: 2.0}}
    assert [d.point for d in halve(curves, [0.5], keep=0.9) if d.stops] == ["a"]


def test_equal_points_keep_their_order_and_some_may_be_spared() -> None:
    curves = {name: {0.5: 1.0} for name in "abcd"}
    assert [d.point for d in halve(curves, [0.5]) if d.stops] == ["c", "d"]
    assert not any(d.stops for d in halve(curves, [0.5], fewest=4))


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        halve(CURVES, [1.0])
    with pytest.raises(ValueError, match="p0 has no validation NLL after 10 %"):
        halve(CURVES, [0.1])
