"""Known answers, and the laws that make an interval an interval: coverage, validity under the null."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp
from scipy.stats import t as student

from dreamtune.evaluate.intervals import (
    mcnemar_exact,
    paired_difference,
    paired_permutation,
    question_difference,
    question_share,
    ratio_interval,
    skewness_corrected,
    wilson,
)


def test_wilson_known_answers() -> None:
    eight = wilson(8, 10)
    assert (eight.low, eight.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    none = wilson(0, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10).high == 1.0


@pytest.mark.parametrize("n", [50, 100, 300])
def test_wilson_covers(n: int) -> None:
    """Exactly, for every share that makes at least 10 right and 10 wrong answers probable."""
    intervals = [wilson(k, n) for k in range(n + 1)]
    low, high = (np.array([getattr(interval, limit) for interval in intervals]) for limit in ("low", "high"))
    for truth in np.arange(10 / n, 1 - 10 / n, 0.005):
        covered = binom.pmf(np.arange(n + 1), n, truth)[(low <= truth) & (truth <= high)].sum()
        assert 0.93 <= covered <= 0.97


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
    rng, hits, repeats = np.random.default_rng(n), 0, 1000
    for seed in range(repeats):
        tokens = rng.integers(10, 60, n)
        interval = ratio_interval(tokens * SAMPLES[kind](rng, n), tokens, 200, seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.93 <= hits / repeats <= 0.97


def test_ratio_interval_covers_rows_of_very_unequal_length() -> None:
    """50 rows as long as reasoning traces are, NLL as skewed as a lognormal: counting them as 50 covers 92.5 %."""
    rng, hits, repeats = np.random.default_rng(0), 0, 4000
    for seed in range(repeats):
        tokens = np.clip(rng.lognormal(np.log(400), 0.7, 50).round(), 20, 2048)
        interval = ratio_interval(tokens * SAMPLES["lognormal"](rng, 50), tokens, 300, seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.93 <= hits / repeats <= 0.97


def test_rows_count_by_their_size() -> None:
    """Half of the rows hold nearly all tokens: (Σy)² / Σy² = 25.5 rows count, and t with 24.5 degrees is 2.062."""
    tokens, shortest = np.repeat([1000.0, 10.0], 25), np.inf
    for seed in range(20):
        values = tokens * np.random.default_rng(seed).standard_t(3, 50)
        interval = ratio_interval(values, tokens, 300, seed)
        residuals = (values - interval.value * tokens) / tokens.mean()
        error = np.sqrt((residuals**2).sum() / (50 * 49))
        shortest = min(shortest, (interval.high - interval.value) / error, (interval.value - interval.low) / error)
    assert 2.058 < shortest < 2.1  # 2.010 with 49 degrees


@pytest.mark.parametrize("n", [50, 100, 300])
def test_shares_over_several_samples_cover(n: int) -> None:
    """Four samples of each question; skills spread over [0, 1], tuned ones 0.85 · skill + 0.13."""
    rng, hits, repeats, samples = np.random.default_rng(n), np.zeros(3), 1000, 4
    for _ in range(repeats):
        skill = rng.beta(0.8, 0.8, n)
        base, tuned = (rng.binomial(samples, chance) / samples for chance in (skill, 0.85 * skill + 0.13))
        found = question_share(base, samples), question_share(tuned, samples), question_difference(base, tuned, samples)
        hits += [i.low <= truth <= i.high for i, truth in zip(found, (0.5, 0.555, 0.055), strict=True)]
    assert (hits / repeats >= 0.93).all() and (hits / repeats <= 0.97).all()


def test_no_right_answer_in_several_samples_is_no_proof_of_none() -> None:
    none = question_share([0.0] * 50, 8)
    assert none.low == 0.0 and none.high == pytest.approx(wilson(0, 50).high, abs=0.005)
    all_right = question_difference([0.0] * 50, [1.0] * 50, 8)
    assert all_right.low < 0.95 and all_right.high == 1.0
    more = question_share([0.5] * 25 + [0.25] * 25, 4)
    assert more.high - more.low < wilson(18, 50).high - wilson(18, 50).low  # four samples say more than one


def test_one_sample_is_the_special_case() -> None:
    rng = np.random.default_rng(0)
    base, tuned = rng.random(200) < 0.5, rng.random(200) < 0.6
    several, one = question_difference(base, tuned, 1), paired_difference(base, tuned)
    assert (several.value, several.low, several.high) == pytest.approx((one.value, one.low, one.high), abs=0.003)


def test_ratio_is_a_ratio_of_sums_and_repeats_itself() -> None:
    one, two = ratio_interval([1, 9], [1, 3], 500, 3), ratio_interval([1, 9], [1, 3], 500, 3)
    assert one.value == 10 / 4
    assert one == two


def test_equal_values_give_a_point_and_one_value_gives_no_limits() -> None:
    same = ratio_interval([0.0] * 20, [1.0] * 20, 500, 0)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    assert ratio_interval([0.7], [1.0], 500, 0).low == -np.inf


def test_a_skewness_corrected_test_known_answers() -> None:
    """28 gains of 1, losses of 4 and 5: t = 2.475 and s = −0.644, hence 2.475 − 1.315 + 0.233 − 0.107 = 1.286."""
    values = np.array([1.0] * 28 + [-4.0, -5.0])
    assert skewness_corrected(values, np.ones(30)) == pytest.approx(2 * student.sf(1.2857, 29), rel=1e-3)
    assert skewness_corrected(-values, np.ones(30)) == skewness_corrected(values, np.ones(30))
    symmetric = np.array([-1.0, 0.0, 1.0] * 10) + 0.3
    assert skewness_corrected(symmetric, np.ones(30)) == pytest.approx(ttest_1samp(symmetric, 0).pvalue)
    helped = np.array([1.0] * 28 + [6.0, 7.0]) - 0.9  # the correction would lower p, and does not
    assert skewness_corrected(helped, np.ones(30)) == pytest.approx(ttest_1samp(helped, 0).pvalue)
    assert skewness_corrected(np.zeros(9), np.ones(9)) == 1.0
    assert skewness_corrected(np.full(9, 2.0), np.full(9, 4.0)) == 0.0
    with pytest.raises(ValueError, match="not enough data"):
        skewness_corrected([1.0], [1.0])


def test_most_rows_gain_a_little_and_few_lose_much() -> None:
    """300 rows of unequal length, of which a tenth loses what the others gain: by sign flips 4 to 5 % are better."""
    rng, repeats, better, worse = np.random.default_rng(0), 1500, 0, 0
    for _ in range(repeats):
        change = np.where(rng.random(300) < 0.1, rng.normal(1.8, 0.5, 300), rng.normal(-0.2, 0.2, 300))
        tokens = np.clip(rng.lognormal(np.log(400), 0.7, 300), 20, 2048)
        significant = skewness_corrected(change * tokens, tokens) < 0.05
        better += significant and (change * tokens).sum() < 0
        worse += significant and (change * tokens).sum() > 0
    assert better / repeats <= 0.025 + 3 * 0.004 and worse / repeats <= 0.025 + 3 * 0.004
