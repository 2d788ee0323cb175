"""At the change that is called detectable, the test must find it in 80 % of repetitions."""

import numpy as np
import pytest

from dreamtune.evaluate.clusters import Clusters, clustered_difference
from dreamtune.evaluate.intervals import mcnemar_exact, paired_permutation, ratio_interval, skewness_corrected
from dreamtune.evaluate.power import detectable_clustered, detectable_gain, detectable_mean, detectable_ratio


@pytest.mark.parametrize(("n", "changed"), [(300, 90), (100, 10), (50, 15), (340, 315)])
def test_detectable_gain_is_what_the_test_detects(n: int, changed: int) -> None:
    """At the gain it names, McNemar's exact test must find it in 80 % of samples."""
    gain = detectable_gain(n, changed)
    assert gain is not None
    share = max((changed + 1) / (n + 1), gain)
    won, lost = (share + gain) / 2, max(0.0, (share - gain) / 2)
    counts = np.random.default_rng(0).multinomial(n, (won, lost, 1 - won - lost), 4000)
    p = {pair: mcnemar_exact(pair[1], pair[0]) for pair in {(int(w), int(x)) for w, x, _ in counts}}
    found = np.mean([p[int(w), int(x)] < 0.05 and w > x for w, x, _ in counts])
    assert found == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n", [12, 60])
def test_detectable_mean_is_what_a_sign_flip_detects(n: int) -> None:
    rng = np.random.default_rng(n)
    noise = rng.normal(0, 1, n)
    effect = detectable_mean(noise)
    assert effect is not None
    assert detectable_mean(noise - 5) == pytest.approx(effect)  # not a function of the change found
    spread, found, repeats = noise.std(ddof=1), 0, 1500
    for seed in range(repeats):
        found += paired_permutation(effect + rng.normal(0, spread, n), 400, seed) < 0.05
    assert found / repeats == pytest.approx(0.8, abs=0.035)


def test_detectable_ratio_is_what_test_and_interval_detect() -> None:
    """Rows of unequal length, each changed by the effect per token and by noise of its own."""
    rng, repeats = np.random.default_rng(0), 400
    tokens = rng.integers(10, 60, 80).astype(float)
    noise = tokens * rng.normal(0, 1, 80)
    noise -= noise.sum() / tokens.sum() * tokens
    effect = detectable_ratio(ratio_interval(noise, tokens, 2000, 0), noise, tokens)
    moved = noise - 5 * tokens
    assert detectable_ratio(ratio_interval(moved, tokens, 2000, 0), moved, tokens) == pytest.approx(effect)
    found = 0
    for seed in range(repeats):
        pick = rng.integers(0, 80, 80)
        change, size = noise[pick] - effect * tokens[pick], tokens[pick]
        found += skewness_corrected(change, size) < 0.05 and ratio_interval(change, size, 300, seed).high < 0
    assert found / repeats == pytest.approx(0.8, abs=0.06)  # three standard errors


def test_detectable_clustered_is_larger_than_for_unrelated_questions_and_true() -> None:
    """30 templates of 10 questions, each of which gains or loses in most of its questions."""
    rng, repeats, clusters = np.random.default_rng(0), 150, Clusters.of(np.repeat(np.arange(30), 10))

    def answers(gain: float) -> tuple[np.ndarray, np.ndarray]:
        skill = rng.beta(1.3, 1.3, (2, 30, 1))
        base, tuned = (1 - gain) * skill[0], gain + (1 - gain) * skill[1]
        return (rng.random((30, 10)) < base).ravel().astype(float), (rng.random((30, 10)) < tuned).ravel().astype(float)

    stated = []
    for _ in range(20):
        base, tuned = answers(0.2)
        gain = clustered_difference(base, tuned, clusters, 1)
        stated.append(detectable_clustered(tuned - base, clusters, gain))
        unaware = detectable_gain(300, int((base != tuned).sum()))
        assert unaware is not None and stated[-1] is not None and stated[-1] > 1.2 * unaware
    found = 0
    for seed in range(repeats):
        base, tuned = answers(float(np.median(stated)))
        changes, gain = clusters.sums(tuned - base), clustered_difference(base, tuned, clusters, 1)
        found += gain.low > 0 and paired_permutation(changes, 400, seed) < 0.05
    assert found / repeats == pytest.approx(0.8, abs=0.1)  # three standard errors


def test_detectable_needs_data() -> None:
    assert detectable_gain(0, 0) is None
    assert detectable_gain(2, 0) is None
    assert detectable_gain(5, 0) is None  # five wins of five have p = 0.06
    assert detectable_gain(100, 0) == pytest.approx(0.076, abs=0.01)  # all changes would have to be wins
    assert detectable_mean([1.0]) is None
    assert detectable_mean([0.0, 2.0, 1.0, 0.0, 3.0]) is None  # no flip of five signs has p < 0.05
    rng = np.random.default_rng(0)
    many = rng.normal(0, 1, 2000)
    normal = (1.95996 + 0.84162) * many.std(ddof=1) / np.sqrt(2000)
    assert detectable_mean(many) == pytest.approx(normal, rel=2e-3)
    assert detectable_mean(np.zeros(20)) == 0.0
    five = Clusters.of(np.repeat(np.arange(5), 20))
    changes = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0], 20)
    assert detectable_clustered(changes, five, clustered_difference(0 * changes, changes, five, 1)) is None
