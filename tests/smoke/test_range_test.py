"""The range test's rule on curves whose answer is known, and a test of rates on a loss that is worked out by hand."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from dreamtune.errors import UserError
from dreamtune.smoke.range_test import HIGHEST, LOWEST, STEPS, TENTH, Curve, range_test, rates


def curve(ratio: Callable[[float], float]) -> Curve:
    """Return the curve of a test whose windows, of losses 3 and 5 before it, are at `ratio` times that after a rate."""
    made = Curve()
    for number, rate in enumerate(rates()):
        before = (3.0, 5.0)[number % 2]
        made.add(rate, before * ratio(rate), before)
        if made.ended:
            break
    return made


def valley(at: float, depth: float) -> Callable[[float], float]:
    """Return a loss that falls by `depth` up to the rate `at`, and rises as fast beyond it."""
    return lambda rate: 1 - depth * max(1 - abs(math.log10(rate / at)) / 2, -3.0 if rate > at else 0.0)


@pytest.mark.parametrize("at", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("depth", [0.05, 0.5])
def test_a_tenth_of_where_the_loss_turns(at: float, depth: float) -> None:
    """Smoothing sees the turn late, by a third of a power of ten at most."""
    found = curve(valley(at, depth)).result()
    assert at <= found["turned_at"] <= at * 10**0.35
    assert found["chosen"] == pytest.approx(TENTH * found["turned_at"], rel=0.05)
    assert found["ended"] == "turned"
    assert len(found["points"]) < STEPS and set(found["points"][0]) == {"learning_rate", "loss", "before", "smoothed"}


def test_windows_of_other_losses_are_no_noise() -> None:
    """Their own losses before the first step are what each is compared with: 3 and 5 in turn are a ratio of 1."""
    assert curve(lambda _: 1.0).smoothed == pytest.approx([1.0] * STEPS)


def test_a_loss_that_is_not_a_number_ends_the_test_where_it_stood() -> None:
    found = curve(lambda rate: math.nan if rate > 1e-3 else 1 - 100 * rate).result()
    assert found["ended"] == "diverged" and found["turned_at"] == 1e-3 and found["chosen"] == 1e-4


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (lambda _: 1.0, "fell by less than 2% at every rate up to 1.0e+00"),
        (lambda rate: 1 + 1e3 * rate, "fell by less than 2% at every rate up to"),
        (lambda rate: 1 / (1 + 10 * rate), "did not turn up to a learning rate of 1"),
    ],
)
def test_a_curve_that_says_nothing_is_refused_in_one_line(ratio: Callable[[float], float], said: str) -> None:
    with pytest.raises(UserError, match=r"train\.learning_rate find: the loss") as refused:
        curve(ratio).result()
    assert said in str(refused.value) and "set train.learning_rate to a number" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rates_grow_evenly_from_the_lowest_to_the_highest() -> None:
    tried = rates()
    assert (tried[0], tried[-1], len(tried)) == (LOWEST, HIGHEST, STEPS)
    assert all(b / a == pytest.approx(10**0.1, rel=1e-4) for a, b in pairwise(tried))


def test_gradient_descent_on_a_parabola_is_tried_until_it_diverges() -> None:
    """A window pulls w to +0.2, the other to -0.2, both with a gradient of 50 times the distance: 2 / 50 diverges."""
    state, gradient, used = {"w": 2.0}, {"w": 0.0}, []

    def loss_of(window: int) -> float:
        distance = state["w"] - (0.2, -0.2)[window]
        gradient["w"] = 50 * distance
        return 1 + distance**2

    def step(rate: float) -> None:
        used.append(rate)
        state["w"] -= rate * gradient["w"]

    found = range_test(2, loss_of, step)
    assert used == rates()[: len(used)] and len(used) == len(found["points"])
    assert 1e-2 < found["turned_at"] < 8e-2 and found["ended"] in ("turned", "diverged")
    first = found["points"][0]
    assert first["before"] == 1 + 2.2**2 and first["learning_rate"] == LOWEST
