"""Questions of one template: counted once, tested between clusters, and as before where all are unrelated."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from dreamtune.evaluate.clusters import Clusters, clustered_difference, clustered_share, effective_number
from dreamtune.evaluate.comparison import compare_nll, compare_samples, compare_scores, nothing
from dreamtune.evaluate.intervals import (
    mcnemar_exact,
    paired_permutation,
    question_difference,
    question_share,
    skewness_corrected,
    wilson,
)
from dreamtune.evaluate.verdict import Verdict, decide
from dreamtune.settings.report import Comparison

FAST = Comparison(resamples=300)
PASSED = [{"name": "targets_hidden", "hard": True, "passed": True, "value": 0, "expected": "0", "source": "full"}]
TEMPLATES = np.repeat(np.arange(30), 10)  # 30 templates of 10 questions


def accuracy(base: np.ndarray, tuned: np.ndarray, clusters: np.ndarray, samples: int = 1) -> dict[str, Any]:
    return compare_scores(*sides(base, tuned, clusters, samples), "correct", FAST)


def sides(base: np.ndarray, tuned: np.ndarray, clusters: np.ndarray, samples: int = 1) -> list[pl.DataFrame]:
    n = len(base) // samples
    keys = {"example_id": np.repeat(np.arange(n), samples), "sample": np.tile(np.arange(samples), n)}
    keys["cluster"] = np.repeat(clusters, samples)
    frames = [pl.DataFrame(keys | {"correct": right > 0}) for right in (base, tuned)]
    return [f.with_columns(gradable=True, answer_class=pl.col("correct").cast(pl.Int32)) for f in frames]


def nll(change: np.ndarray, clusters: np.ndarray, tokens: np.ndarray | int = 10) -> dict[str, Any]:
    n = len(change)
    frame = {"example_id": np.arange(n), "cluster": clusters, "draw": np.zeros(n, int), "nll_base": np.full(n, 50.0)}
    rows = pl.DataFrame(frame | {"nll_tuned": 50.0 + tokens * change}).with_columns(response_tokens=pl.lit(tokens))
    return compare_nll(rows, FAST)


def says(block: dict[str, Any]) -> Verdict:
    primary = "accuracy" if "gain" in block else "nll"
    blocks = (block, nothing("rows")) if primary == "accuracy" else (nothing("questions"), block)
    return decide(FAST.model_copy(update={"primary": primary}), *blocks, PASSED, {"full": True})


def template_answers(rng: np.random.Generator, clusters: np.ndarray, similar: float = 1.35) -> list[np.ndarray]:
    """Base and tuned solve each template with skills that are drawn alike for both: nothing changed on average."""
    skills = rng.beta(similar, similar, (2, clusters.max() + 1))
    return [(rng.random(len(clusters)) < skill[clusters]).astype(float) for skill in skills]


def at_most(share: float, repeats: int) -> float:
    """Return the number of hits that a share exceeds with a probability of 1 in 1,000."""
    return repeats * share + 3.1 * (repeats * share * (1 - share)) ** 0.5


def test_similar_questions_are_seldom_called_an_improvement_by_chance() -> None:
    rng, repeats, said, unaware = np.random.default_rng(0), 120, 0, 0
    for _ in range(repeats):
        base, tuned = template_answers(rng, TEMPLATES)
        said += says(accuracy(base, tuned, TEMPLATES)).name == "improved"
        won, lost = int((tuned > base).sum()), int((tuned < base).sum())
        unaware += won > lost and mcnemar_exact(lost, won) < 0.05
    assert said <= at_most(0.025, repeats)
    assert unaware > at_most(0.025, repeats)  # what happens where their likeness is ignored: some 14 %


@pytest.mark.parametrize("sizes", [[10] * 6, [10] * 15, [90] + [10] * 9], ids=["6", "15", "one with half"])
def test_few_and_unequal_clusters(sizes: list[int]) -> None:
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    clusters, rng, repeats, found, covered = Clusters.of(numbers), np.random.default_rng(1), 400, 0, 0
    for seed in range(repeats):
        base, tuned = template_answers(rng, numbers)
        interval = clustered_difference(base, tuned, clusters, 1)
        found += paired_permutation(clusters.sums(tuned - base), 300, seed) < 0.05
        covered += interval.low <= 0 <= interval.high
    assert found <= at_most(0.05, repeats)
    assert repeats - covered <= at_most(0.06, repeats)


def test_the_likelihood_is_compared_between_clusters_too() -> None:
    rng, repeats, said, unaware, covered = np.random.default_rng(2), 150, 0, 0, 0
    for _ in range(repeats):
        change = rng.normal(size=30)[TEMPLATES] + rng.normal(size=300)
        block = nll(change, TEMPLATES)
        said += says(block).name == "improved"
        covered += block["delta"]["low"] <= 0 <= block["delta"]["high"]
        unaware += skewness_corrected(change, np.ones(300)) < 0.05 and change.sum() < 0
    assert said <= at_most(0.025, repeats) and repeats - covered <= at_most(0.05, repeats)
    assert unaware > at_most(0.025, repeats)


def test_a_gain_in_every_template_is_found() -> None:
    rng = np.random.default_rng(3)
    base, tuned = ((rng.random(300) < share).astype(float) for share in (0.3, 0.6))
    block = accuracy(base, tuned, TEMPLATES)
    said = says(block)
    assert said.name == "improved" and block["gain"]["test"] == "paired permutation over clusters of similar questions"
    alike = f"in 30 clusters of similar questions that count as {block['gain']['effective_n']:.0f} unrelated ones; +"
    assert said.detail.startswith(alike) and "clusters" not in said.headline
    assert "between clusters" in said.reasons[2] and 0.03 < block["detectable"] < 0.2


def test_fewer_than_six_clusters_are_not_tested_and_the_sentence_says_so() -> None:
    five = np.repeat(np.arange(5), 20)
    block = accuracy(np.zeros(100), np.ones(100), five)
    said = says(block)
    assert (block["gain"]["p"], block["gain"]["low"], block["detectable"]) == (None, None, None)
    assert said.name == "no evidence of change"
    assert "0 → 100 of 100 held-out questions correct (in 5 clusters of similar questions" in said.sentence
    assert "no test: fewer than 6 clusters of similar questions" in said.sentence
    assert "no test: fewer than 6 clusters of similar questions" in said.reasons[0]
    likelihood = says(nll(np.linspace(-2, -1, 100), five))
    assert likelihood.name == "no evidence of change"
    assert "in 5 clusters" in likelihood.sentence and "no test: fewer than 6 clusters" in likelihood.sentence
    six = accuracy(np.zeros(120), np.ones(120), np.repeat(np.arange(6), 20))
    assert six["gain"]["p"] == 2 / 2**6 and says(six).name == "improved"


def test_one_cluster_says_nothing_about_others() -> None:
    block = accuracy(np.zeros(50), np.ones(50), np.zeros(50, int))
    assert (block["tuned"]["low"], block["tuned"]["high"], block["tuned"]["effective_n"]) == (0.0, 1.0, 1.0)
    assert "in 1 cluster of similar questions" in says(block).sentence


def test_unrelated_questions_are_compared_as_before() -> None:
    """Exactly: numbers of clusters are names, and the methods are those of docs/statistics.md for single questions."""
    rng = np.random.default_rng(4)
    base, tuned = ((rng.random(80) < share).astype(float) for share in (0.4, 0.6))
    block = accuracy(base, tuned, np.arange(80) + 7)
    assert block["gain"]["test"] == "exact McNemar" and block["clusters"] == 80
    limits = wilson(base.sum(), 80)
    assert block["base"] == {"value": limits.value, "low": limits.low, "high": limits.high, "n": 80, "effective_n": 80}
    several = accuracy(base, tuned, np.arange(20), samples=4)
    x, y = base.reshape(20, 4).mean(1), tuned.reshape(20, 4).mean(1)
    interval = question_difference(x, y, 4)
    assert (several["gain"]["low"], several["gain"]["high"]) == (interval.low, interval.high)
    assert several["gain"]["p"] == paired_permutation(y - x, FAST.resamples, FAST.seed)
    assert several["gain"]["test"] == "paired permutation over questions"


def test_samples_and_votes_are_compared_between_clusters() -> None:
    rng = np.random.default_rng(5)
    base, tuned = ((rng.random(240) < share).astype(float) for share in (0.3, 0.6))
    found: Any = compare_samples(*sides(base, tuned, np.repeat(np.arange(20), 3), samples=4), FAST)
    for block in (*found["pass_at_k"].values(), found["majority"]):
        assert (block["questions"], block["clusters"]) == (60, 20)
        assert block["gain"]["test"] == "paired permutation over clusters of similar questions"


def test_the_effective_number_lies_between_clusters_and_questions() -> None:
    rng = np.random.default_rng(6)
    clusters = Clusters.of(TEMPLATES)
    alike, unlike = rng.normal(size=30)[TEMPLATES], rng.normal(size=300)
    assert effective_number(alike, clusters) == pytest.approx(30)
    assert 200 < effective_number(unlike, clusters) <= 300
    between = effective_number(alike + 2 * unlike, clusters)  # a fifth of the variance is shared: 300 / (1 + 9 / 5)
    assert between == pytest.approx(300 / (1 + 9 * 0.2), rel=0.4)
    half = Clusters.of(np.repeat(np.arange(10), [90] + [10] * 9))
    assert effective_number(np.zeros(180), half) == pytest.approx(1 / (0.25 + 9 / 18**2))  # nothing varies
    assert effective_number(unlike, Clusters.of(np.arange(300))) == 300


def test_shares_and_gains_of_clusters_of_one_size_are_those_of_questions_with_as_many_samples() -> None:
    """A question with four samples is a cluster of four answers."""
    rng = np.random.default_rng(7)
    base, tuned = ((rng.random((40, 4)) < rng.beta(1, 1, (40, 1))).astype(float) for _ in range(2))
    clusters = Clusters.of(np.repeat(np.arange(40), 4))
    one, other = question_share(base.mean(1), 4), clustered_share(base.ravel(), clusters, 1)
    assert (other.low, other.high) == pytest.approx((one.low, one.high))
    gain, clustered = (
        question_difference(base.mean(1), tuned.mean(1), 4),
        clustered_difference(base.ravel(), tuned.ravel(), clusters, 1),
    )
    assert (clustered.low, clustered.high) == pytest.approx((gain.low, gain.high))
