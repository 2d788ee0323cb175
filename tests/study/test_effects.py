"""The effect of a method with seeds: its two errors, its degrees of freedom, and what it is about."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import t as student

from dreamtune.evaluate.clusters import Clusters
from dreamtune.evaluate.intervals import mcnemar_exact, paired_permutation, skewness_corrected
from dreamtune.study.effects import contrast, degrees, method_effect

RNG = np.random.default_rng(5)
GAINS = RNG.choice([-1.0, 0.0, 1.0], (3, 60), p=[0.1, 0.6, 0.3])  # [seeds, questions]


def test_the_errors_over_questions_and_over_seeds_add_up() -> None:
    effect = method_effect(GAINS)
    questions = GAINS.mean(axis=0).var(ddof=1) / 60 + 1 / 60**2  # and one changed question more
    seeds = GAINS.mean(axis=1).var(ddof=1) / 3
    assert effect.value == pytest.approx(GAINS.mean())
    assert effect.error_questions == pytest.approx(sqrt(questions))
    assert effect.error_seeds == pytest.approx(sqrt(seeds))
    assert effect.error == pytest.approx(sqrt(questions + seeds))
    assert effect.df == pytest.approx((questions + 2 * seeds) ** 2 / (questions**2 / 59 + (2 * seeds) ** 2 / 2))
    half = student.isf(0.025, effect.df) * effect.error
    assert effect.limits() == pytest.approx((effect.value - half, effect.value + half))
    assert (effect.about, effect.seeds) == ("method", (3,))


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_say_nothing_about_the_method(seeds: int) -> None:
    effect = method_effect(GAINS[:seeds])
    assert (effect.about, effect.error_seeds, round(effect.df)) == ("adapters", None, 59)


def test_one_seed_has_the_report_s_own_p_where_that_is_the_larger() -> None:
    gains = np.zeros((1, 340))
    gains[0, :20], gains[0, 20:31] = 1, -1
    assert method_effect(gains).p == pytest.approx(mcnemar_exact(lost=11, won=20))
    assert method_effect(gains).test == "t over questions, and exact McNemar"


def test_few_changes_are_judged_by_the_exact_test() -> None:
    """Five won and none lost of 340: t alone would call it improved, sign flips cannot."""
    gains = np.zeros((3, 340))
    gains[:, :5] = 1
    effect = method_effect(gains)
    assert 2 * student.sf(effect.value / effect.error, effect.df) < 0.05 < 0.0625 == effect.p


def test_two_methods_have_independent_seeds() -> None:
    first, second = GAINS, RNG.choice([-1.0, 0.0, 1.0], (4, 60))
    effect = contrast(first, second)
    seeds = first.mean(axis=1).var(ddof=1) / 3 + second.mean(axis=1).var(ddof=1) / 4
    questions = (first.mean(axis=0) - second.mean(axis=0)).var(ddof=1) / 60 + 1 / 60**2
    assert effect.value == pytest.approx(first.mean() - second.mean())
    assert effect.error_seeds == pytest.approx(sqrt(seeds))
    assert effect.error_questions == pytest.approx(sqrt(questions))
    assert effect.seeds == (3, 4) and contrast(first, second[:1]).about == "adapters"
    assert contrast(second, first).value == pytest.approx(-effect.value)


def test_a_base_that_both_methods_share_cancels() -> None:
    base = RNG.choice([0.0, 1.0], 60)
    one, other = contrast(GAINS, GAINS[::-1] * 0.5), contrast(GAINS - base, GAINS[::-1] * 0.5 - base)
    assert (one.value, one.error) == pytest.approx((other.value, other.error))


def test_clusters_take_the_place_of_questions() -> None:
    clusters = Clusters.of(np.repeat(range(12), 5))
    alike = np.repeat(RNG.choice([-1.0, 0.0, 1.0], (3, 12)), 5, axis=1)
    effect = method_effect(alike, clusters)
    by_cluster = alike[:, ::5].mean(axis=0)
    assert effect.error_questions == pytest.approx(sqrt(by_cluster.var(ddof=1) / 12 + 1 / 60**2))
    assert effect.error_questions > 1.8 * method_effect(alike).error_questions
    assert effect.p is not None and effect.p >= paired_permutation(5 * by_cluster, 10_000, 0)
    assert (effect.questions, effect.clusters) == (60, 12)


def test_fewer_than_six_clusters_are_not_tested() -> None:
    effect = method_effect(GAINS, Clusters.of(np.repeat(range(5), 12)))
    assert effect.p is None and effect.limits() == (-np.inf, np.inf) and effect.exceeds(-1) == 1


def test_with_weights_the_gain_is_a_ratio_of_sums() -> None:
    tokens = RNG.integers(10, 200, 60).astype(float)
    gains = tokens * RNG.normal(0.1, 0.3, (3, 60))
    effect = method_effect(gains, weights=tokens)
    assert effect.value == pytest.approx(gains.mean(axis=0).sum() / tokens.sum())
    assert effect.error_seeds == pytest.approx((gains.sum(axis=1) / tokens.sum()).std(ddof=1) / sqrt(3))
    assert effect.p is not None and effect.p >= skewness_corrected(gains.mean(axis=0), tokens)


def test_nothing_changed_is_no_proof_that_nothing_ever_does() -> None:
    low, high = method_effect(np.zeros((3, 50))).limits()
    assert low == -high and 0.03 < high < 0.05


def test_a_variance_of_three_seeds_counts_twice_in_the_degrees_of_freedom() -> None:
    assert degrees(1.0, 100.0, []) == 100
    assert degrees(0.0, 100.0, [(1.0, 2)]) == pytest.approx(2)
    assert degrees(1.0, 100.0, [(1.0, 2)]) == pytest.approx(9 / (1 / 100 + 4 / 2))


@pytest.mark.parametrize("gains", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 0)), [[0.0, np.nan]]])
def test_gains_that_are_none_are_refused(gains: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite gains"):
        method_effect(gains)


def test_methods_must_answer_the_same_questions() -> None:
    with pytest.raises(ValueError, match="the same 60 questions"):
        contrast(GAINS, GAINS[:, :50])
