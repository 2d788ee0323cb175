"""What a grid says about its settings: effects by hand, intervals that cover, interactions only where they show."""

from itertools import product

import numpy as np
import pytest

from dreamtune.study.grid_effects import grid_effects

RANKS, RATES = (4, 16, 64), (1e-4, 1e-3)


def grid(seeds: int) -> list[dict[str, float]]:
    return [{"rank": rank, "rate": rate} for rank, rate, _ in product(RANKS, RATES, range(seeds))]


def answers(rng: np.random.Generator, shares: list[float], sd: float, questions: int = 300) -> np.ndarray:
    """Return right answers, [runs, questions], of runs whose shares scatter by `sd` and which share hard questions."""
    hard = rng.normal(0, 0.15, questions)
    p = np.clip(np.array(shares)[:, None] + rng.normal(0, sd, (len(shares), 1)) + hard, 0, 1)
    return (rng.random(p.shape) < p).astype(float)


def test_effects_are_those_of_the_other_values_against_the_first() -> None:
    shares = [0.2 + 0.1 * RANKS.index(point["rank"]) + 0.2 * (point["rate"] > 5e-4) for point in grid(1)]
    found = grid_effects(grid(1), np.arange(100) < 100 * np.array(shares)[:, None] - 1e-6)
    said = {(one.setting, one.other): (round(one.change.value, 3), one.runs) for one in found.effects}
    assert said == {("rank", 16): (0.1, 2), ("rank", 64): (0.2, 2), ("rate", 1e-3): (0.2, 3)}
    assert all(one.change.low < one.change.value < one.change.high for one in found.effects)


def test_intervals_of_main_effects_cover() -> None:
    """Seed SD of 3 points; wanted: 95 %. Four standard errors of 300 replications are 5 points."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(300):
        points = grid(2)
        found = grid_effects(points, answers(rng, [0.4 + 0.1 * (p["rate"] > 5e-4) for p in points], 0.03))
        truth = {"rank": 0.0, "rate": 0.1}
        inside += [one.change.low <= truth[one.setting] <= one.change.high for one in found.effects]
    assert 0.93 <= np.mean(inside) <= 1.0


def test_an_interaction_is_named_where_there_is_one_and_seldom_otherwise() -> None:
    rng, false, true = np.random.default_rng(1), 0, 0
    for _ in range(200):
        points = grid(3)
        none = grid_effects(points, answers(rng, [0.4] * 18, 0.03))
        crossed = [0.4 + 0.25 * (p["rank"] == 64 and p["rate"] > 5e-4) for p in points]
        some = grid_effects(points, answers(rng, crossed, 0.03))
        false += none.interactions[0].p_adjusted < 0.05
        true += some.interactions[0].p_adjusted < 0.05
    assert false <= 20 and true >= 190


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([{"rank": 4}, {"rank": 4}], "one point is no grid"),
        ([{"rank": 4}, {"rank": 8}], "2 runs are too few for 2 effects; add seeds, or the rest of the product"),
        ([{"rank": 4, "rate": 1}] * 2 + [{"rank": 8, "rate": 2}] * 2, "settings change together in all runs"),
    ],
)
def test_what_cannot_be_told_is_refused(points: list[dict[str, float]], said: str) -> None:
    found = grid_effects(points, np.arange(50) < np.arange(10, 10 + len(points))[:, None])
    assert found.effects == () and (found.refusal or "").startswith(said)


def test_without_runs_to_spare_no_interaction_is_tested() -> None:
    rng = np.random.default_rng(2)
    assert "0 runs are left over" in str(grid_effects(grid(1), answers(rng, [0.4] * 6, 0.0)).refusal)
    assert grid_effects(grid(2), answers(rng, [0.4] * 12, 0.0)).refusal is None


def test_two_runs_to_spare_are_too_few_for_an_interaction() -> None:
    points = [*grid(1), *grid(1)[:2]]
    assert "2 runs are left over" in str(
        grid_effects(points, answers(np.random.default_rng(3), [0.4] * 8, 0.1)).refusal
    )
