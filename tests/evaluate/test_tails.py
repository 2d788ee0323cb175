"""Held-out responses with the tails of training: how they are drawn, and the second reading of the likelihood."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dreamtune.evaluate.comparison import compare_full
from dreamtune.evaluate.draws import per_example
from dreamtune.evaluate.elbo import heldout_nll, jobs_frame, plan_jobs
from dreamtune.evaluate.examples import Example
from dreamtune.evaluate.soft_canaries import shuffled_prompts
from dreamtune.evaluate.tails import with_tail
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.report import Comparison
from dreamtune.settings.train import TrainConfig
from tests.evaluate.test_likelihood import END, MASK, evaluate, examples, tuned_model


def test_both_readings_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the first end token, and with the tail, each as the estimator gives it for those tokens."""
    model = tuned_model()
    frame, content = evaluate(tmp_path, monkeypatch, model, max_tail=6)
    full = pl.read_parquet(tmp_path / "out/likelihood_full.parquet")
    tailed = [with_tail(example, END, TrainConfig(max_tail=6), seed=0) for example in examples(20)]
    tails = {example.example_id: example.tail for example in tailed}
    assert full.height == 20 * 4 and (full["response_tokens"] == 5).all()
    assert full["tail_tokens"].to_list() == [tails[i] for i in full["example_id"]]
    assert (full["masked"] <= 5 + full["tail_tokens"]).all() and (full["masked"] > 5).any()
    expected = heldout_nll(model, tailed, LikelihoodConfig(draws=4), MASK).filter(pl.col("draw") >= 0)
    assert full["nll_tuned"].to_numpy() == pytest.approx(expected["nll"].to_numpy(), rel=1e-5)
    assert content["full"]["tail_tokens"] == sum(tails.values())
    assert content["full"]["tuned"] == pytest.approx(per_example(full)["nll_tuned"].sum() / 100)
    block = compare_full(full, Comparison(resamples=200))
    assert block is not None and block["tail_tokens"] == sum(tails.values())
    assert block["delta"]["value"] == pytest.approx(content["full"]["tuned"] - content["full"]["base"])
    assert block["delta"]["low"] < block["delta"]["value"] < block["delta"]["high"]
    (tmp_path / "without").mkdir()
    alone, plain = evaluate(tmp_path / "without", monkeypatch, model)
    assert alone.equals(frame) and plain["nll"] == content["nll"]  # the headline does not hear of tails
    assert plain["full"] == {"base": None, "tuned": None, "tail_tokens": 0}
    none = pl.read_parquet(tmp_path / "without/out/likelihood_full.parquet")
    assert none.height == 0 and none.schema == full.schema and compare_full(none, Comparison()) is None


def test_every_table_names_the_clusters_of_its_examples() -> None:
    alike = [replace(example, cluster=example.example_id // 2) for example in examples(20)]
    tailed = [with_tail(example, END, TrainConfig(max_tail=6), seed=0) for example in alike]
    for jobs in (
        plan_jobs(alike, LikelihoodConfig(draws=2)),
        plan_jobs(tailed, LikelihoodConfig()),
        shuffled_prompts(alike),
    ):
        frame = jobs_frame(jobs, nll=np.zeros(len(jobs)))
        assert frame["cluster"].to_list() == [i // 2 for i in frame["example_id"]]
        assert per_example(frame.with_columns(draw=0))["cluster"].n_unique() == 10
    alone = shuffled_prompts(examples(20))
    assert jobs_frame(alone, nll=np.zeros(20))["cluster"].n_unique() == 20


def test_a_tail_is_drawn_as_in_training() -> None:
    """Its length and its tokens come from the functions that make training's documents, on top of max_tokens."""
    example = Example(0, (5, 6, END), 1)
    many = [Example(i, (5, 6, END), 1) for i in range(2000)]
    drawn = [with_tail(each, END, TrainConfig(max_tail=4), seed=1).tail for each in many]
    assert np.bincount(drawn) == pytest.approx([400] * 5, abs=54)  # 0 to max_tail, uniformly
    long = TrainConfig(max_tail=4, long_tail=99, long_tail_share=0.25, padding_tokens=[3, 4])
    drawn = [with_tail(each, END, long, seed=1).tail for each in many]
    assert np.mean(np.array(drawn) > 4) == pytest.approx(0.25 * 95 / 100, abs=0.03) and max(drawn) > 90
    tailed = next(made for each in many if (made := with_tail(each, END, long, seed=0)).tail > 2)
    assert tailed.tokens[:6] == (5, 6, END, 3, 4, 3) and tailed.response == 2 + tailed.tail
    plain = next(made for each in many if (made := with_tail(each, END, TrainConfig(max_tail=4), seed=0)).tail)
    assert plain.tokens == (5, 6, END, *(END,) * plain.tail)
    cut = Example(0, (5, 6, 7), 1)
    assert with_tail(cut, END, long, seed=0) == cut and example.response == 2
