"""Mask rates: each is uniform by itself whatever spreads them, and a density changes no expectation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamtune.objective.density import best_density, redrawn
from dreamtune.objective.diffusion import MIN_RATE, mask_rates
from dreamtune.objective.rates import drawn_rates, rate_shares
from tiny import settings

DENSITIES = st.lists(st.floats(0.01, 100), min_size=2, max_size=12)
EVEN = (np.arange(20_000) + 0.5) / 20_000


@given(density=DENSITIES, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_density_keeps_the_weight_of_every_interval(density: list[float], bounds: tuple[float, float]) -> None:
    """The mean weight of the draws that fall into an interval is its length: so is every expectation unbiased.

    20,000 even draws stand for the uniform ones; at both ends of the interval one of them may be on the wrong side, and
    within a bin of the grid the weight changes by at most the ratio of the largest to the smallest density.
    """
    low, high = sorted(bounds)
    places, weights = redrawn(EVEN, density)
    found = float((weights * ((places >= low) & (places < high))).mean())
    assert abs(found - (high - low)) < 4 * max(weights) / len(EVEN)


@given(density=DENSITIES)
def test_draws_follow_the_density(density: list[float]) -> None:
    """Redrawn shares ascend within [0, 1), and each weight is 1 over the density, which integrates to 1."""
    places, weights = redrawn(np.append(EVEN, np.nextafter(1.0, 0.0)), density)
    assert (np.diff(places) >= 0).all() and places[0] >= 0 and places[-1] < 1
    heights = np.interp(places, np.linspace(0, 1, len(density)), density)
    np.testing.assert_allclose(weights * heights, weights[0] * heights[0], rtol=1e-6)


def test_no_density_changes_nothing() -> None:
    places, weights = redrawn(EVEN, [])
    assert (places == EVEN).all() and (weights == 1).all()
    np.testing.assert_allclose(redrawn(EVEN, [3.0, 3.0, 3.0])[0], EVEN, atol=1e-12)


def test_the_best_density_makes_the_variance_least() -> None:
    """An estimate of mean g and variance v at t: against the density itself, uniform and flattened ones are worse."""
    grid = np.linspace(0, 1, 201)
    means, variances = 1 + 3 * grid**2, 0.5 + 4 * (1 - grid) ** 3
    best = np.array(best_density(means, variances))

    def second_moment(density: np.ndarray) -> float:
        return float(np.trapezoid((means**2 + variances) / (density / np.trapezoid(density, grid)), grid))

    assert second_moment(best) < min(second_moment(np.sqrt(best)), second_moment(np.ones(201)), second_moment(best**2))


@pytest.mark.parametrize("draws", ["independent", "per_document"])
@pytest.mark.parametrize("epoch", [0, 2])
def test_rates_are_uniform_in_every_epoch(draws: str, epoch: int) -> None:
    """Kolmogorov's distance of 4,000 documents' rates from uniform, which exceeds 1.95 / sqrt(n) once in 1,000."""
    shares = np.sort(rate_shares(draws, np.arange(4000), range(4000), seed=1, epoch=epoch, epochs=3))
    assert abs(shares - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)


def test_a_document_meets_each_stratum_once_in_an_order_of_its_own() -> None:
    drawn = [rate_shares("per_document", np.arange(50), range(50), 0, epoch, epochs=5) for epoch in range(5)]
    strata = (5 * np.array(drawn)).astype(int)  # [epochs, documents]
    assert (np.sort(strata, axis=0) == np.arange(5)[:, None]).all()
    assert len({tuple(order) for order in strata.T}) > 20


@pytest.mark.parametrize("draws", ["even", "independent", "per_document"])
def test_rates_depend_on_epoch_and_document_alone(draws: str) -> None:
    whole = rate_shares(draws, np.arange(10), range(10), 0, 1, 3)
    later = rate_shares(draws, np.arange(10)[7:], range(10)[7:], 0, 1, 3)
    np.testing.assert_allclose(later, whole[7:], rtol=1e-12)
    assert (rate_shares(draws, np.arange(10), range(10), 1, 1, 3) != whole).all()


def test_rates_of_the_settings() -> None:
    places = np.arange(1000)

    def rates(**changes: object) -> np.ndarray:
        return drawn_rates(settings(**changes), places, range(1000), epoch=1)[0]

    assert (rates(mask_counts="random") == mask_rates(places, 0, 1)).all()
    paired = rates(mask_counts="random", complementary=True)
    assert (paired == mask_rates(places, 0, 1, highest=1 - MIN_RATE)).all()
    assert (rates(complementary=True) < 0.001).any()  # k = 1 needs no smallest rate
    clipped = rates(rate_range=[0.3, 0.8])
    assert 0.3 <= clipped.min() < 0.302 and 0.798 < clipped.max() < 0.8
    assert np.mean(rates(rate_density=[1.0, 9.0])) > 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_range": [0.8, 0.2]}, "the lowest and then the highest rate"),
        ({"rate_density": [1.0]}, "two densities at least"),
        ({"rate_density": [1.0, 0.0]}, "greater than 0"),
        ({"mask_block": 0}, "greater than or equal to 1"),
    ],
)
def test_rates_that_cannot_be_drawn_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)
