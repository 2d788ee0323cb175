"""The soft canaries of the likelihood: what makes each fire, and how many rows they need."""

import numpy as np
import polars as pl
import pytest

from dreamtune.evaluate.draws import EVERYTHING
from dreamtune.evaluate.soft_canaries import context_helps, no_gap, prompt_matters, shuffled_prompts
from tests.evaluate.test_likelihood import examples


def _draws(nll: float, blind: float, base: float | None = None) -> pl.DataFrame:
    """Twenty examples of ten tokens: a draw at rate 0.2, one at 0.7, and everything masked."""
    rng, rows = np.random.default_rng(0), []
    for i in range(20):
        for draw, masked, value in ((0, 2, nll), (1, 7, nll), (EVERYTHING, 10, blind)):
            noisy = 10 * (value + 0.05 * rng.normal())
            fields = {"example_id": i, "cluster": i, "draw": draw, "masked": masked, "response_tokens": 10}
            fields["nll_tuned"] = noisy
            rows.append(fields | {"nll_base": 10 * (nll if base is None else base)})
    return pl.DataFrame(rows)


def test_canaries_pass_and_fire() -> None:
    good = _draws(0.5, 1.5)
    assert context_helps(good, 0)["passed"] is True
    assert context_helps(_draws(1.5, 1.5), 0)["passed"] is False  # a model that is blind to its context
    shuffled = good.filter(pl.col("draw") == EVERYTHING)
    assert prompt_matters(good, shuffled.with_columns(pl.col("nll_tuned") + 5), 0)["passed"] is True
    assert prompt_matters(good, shuffled, 0)["passed"] is False  # a model that ignores its prompt
    assert no_gap(_draws(0.5, 1.5, base=0.9), _draws(0.5, 1.5, base=0.9), 0)["passed"] is True
    assert no_gap(_draws(0.9, 1.5, base=0.9), _draws(0.1, 1.5, base=0.9), 0)["passed"] is False  # memorised


def test_canaries_count_clusters_of_similar_questions() -> None:
    rows = _draws(0.5, 1.5)
    assert context_helps(rows, 0)["note"] == "20 rows with different questions"
    alike = rows.with_columns(cluster=pl.col("example_id") // 2)
    half, all_of_them = context_helps(alike, 0), context_helps(rows, 0)
    assert half["note"] == "10 rows with different questions" and half["value"] == pytest.approx(all_of_them["value"])
    few = rows.with_columns(cluster=pl.col("example_id") // 3)
    shuffled = few.filter(pl.col("draw") == EVERYTHING)
    found = [context_helps(few, 0), prompt_matters(few, shuffled, 0), no_gap(few, few, 0)]
    assert [c["passed"] for c in found] == [None] * 3 and "not enough data" in found[0]["note"]


def test_shuffled_prompts_exchange_prompts_and_nothing_else() -> None:
    rows = examples(8)
    for job in shuffled_prompts(rows):
        mine = next(e for e in rows if e.example_id == job.example.example_id)
        assert job.example.tokens[job.example.prompt :] == mine.tokens[mine.prompt :]
        assert job.example.tokens[: job.example.prompt] != mine.tokens[: mine.prompt]
        assert len(job.masked) == mine.response
    assert shuffled_prompts([]) == []
