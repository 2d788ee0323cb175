"""Known answers, and the laws that make an interval an interval: coverage, validity under the null."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamtune.statistics import (
    detectable_gain,
    detectable_mean,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    paired_permutation,
    ratio_interval,
    wilson,
)


def test_wilson_known_answers() -> None:
    eight = wilson(8, 10)
    assert (eight.low, eight.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    none = wilson(0, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10).high == 1.0


def test_no_trials_is_an_error_not_a_nan() -> None:
    with pytest.raises(ValueError, match="not enough data"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="not enough data"):
        ratio_interval([], [], 100, 0)


def test_mcnemar_known_answers() -> None:
    assert mcnemar_exact(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar_exact(10, 2) == mcnemar_exact(2, 10)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0


def test_permutation_enumerates_few_and_agrees_with_mcnemar_on_many() -> None:
    assert paired_permutation([1, 1, 1], 100, seed=0) == 2 / 8
    assert paired_permutation([0, 0], 100, seed=0) == 1.0
    assert paired_permutation([1.0] * 15 + [-1.0] * 5, 20_000, seed=0) == pytest.approx(mcnemar_exact(5, 15), abs=0.006)
    assert paired_permutation([1.0] * 40, 999, seed=0) == 1 / 1000  # never 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_difference_contains_the_gain_and_mirrors(pairs: list[tuple[bool, bool]]) -> None:
    base, tuned = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = paired_difference(base, tuned), paired_difference(tuned, base)
    assert -1 <= there.low <= there.value + 1e-12 and there.value - 1e-12 <= there.high <= 1
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


@pytest.mark.parametrize("shares", [(0.3, 0.2, 0.1, 0.4), (0.05, 0.3, 0.02, 0.63), (0.8, 0.1, 0.05, 0.05)])
@pytest.mark.parametrize("n", [50, 100, 300])
def test_paired_difference_covers(n: int, shares: tuple[float, ...]) -> None:
    """Shares: both right, won, lost, both wrong."""
    rng, hits, repeats = np.random.default_rng(n), 0, 2000
    for counts in rng.multinomial(n, shares, repeats):
        interval = paired_difference(np.repeat([1, 0, 1, 0], counts), np.repeat([1, 1, 0, 0], counts))
        hits += interval.low <= shares[1] - shares[2] <= interval.high
    assert 0.93 <= hits / repeats <= 0.975


SAMPLES = {
    "normal": lambda rng, n: rng.normal(0.3, 1, n),
    "lognormal": lambda rng, n: rng.lognormal(0, 1, n) / np.exp(0.5) - 0.7,
    "student t with 3 degrees": lambda rng, n: rng.standard_t(3, n) + 0.3,
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("n", [50, 100, 300])
def test_ratio_interval_covers_heavy_tails_too(n: int, kind: str) -> None:
    """Per-token NLL with 0.3 nats in truth, rows of 10 to 60 tokens."""
    rng, hits, repeats = np.random.default_rng(n), 0, 600
    for seed in range(repeats):
        tokens = rng.integers(10, 60, n)
        interval = ratio_interval(tokens * SAMPLES[kind](rng, n), tokens, 200, seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.915 <= hits / repeats <= 0.98  # 93 to 97 %, and the noise of 600 repeats


def test_ratio_is_a_ratio_of_sums_and_repeats_itself() -> None:
    one, two = ratio_interval([1, 9], [1, 3], 500, 3), ratio_interval([1, 9], [1, 3], 500, 3)
    assert one.value == 10 / 4
    assert one == two


def test_equal_values_give_a_point_and_one_value_gives_no_limits() -> None:
    same = mean_interval([0.0] * 20, 500, 0)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    assert mean_interval([0.7], 500, 0).low == -np.inf


def test_detectable_gain_is_what_the_test_detects() -> None:
    """At the gain it names, McNemar's test must find it in about 80 % of samples."""
    n, changed = 300, 90
    gain = detectable_gain(n, changed)
    assert gain is not None and 0.08 < gain < 0.10
    share = (changed + 1) / (n + 1)
    won, lost = (share + gain) / 2, (share - gain) / 2
    counts = np.random.default_rng(0).multinomial(n, (won, lost, 1 - won - lost), 2000)
    found = np.mean([mcnemar_exact(int(c[1]), int(c[0])) < 0.05 for c in counts])
    assert 0.74 <= found <= 0.83  # the exact test is a little more cautious than the formula


def test_detectable_needs_data() -> None:
    assert detectable_gain(0, 0) is None
    assert detectable_gain(2, 0) is None
    assert detectable_gain(100, 0) == pytest.approx(0.076, abs=0.01)  # all changes would have to be wins
    assert detectable_mean([1.0]) is None
    assert detectable_mean([0.0, 2.0]) == pytest.approx((1.95996 + 0.84162) * np.sqrt(2) / np.sqrt(2), abs=1e-3)
