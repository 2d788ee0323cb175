"""The estimator against the exact value by enumeration; pairing, batching and canaries; the stage end to end."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from datasets.arrow_writer import ArrowWriter
from transformers import Qwen2Config, Qwen2ForCausalLM

from dreamtune.errors import UserError
from dreamtune.evaluate import elbo, likelihood
from dreamtune.evaluate.comparison import compare_nll
from dreamtune.evaluate.draws import EVERYTHING, nats_per_token, per_example
from dreamtune.evaluate.elbo import Job, batches, heldout_nll, mask_positions, plan_jobs
from dreamtune.evaluate.examples import Example
from dreamtune.model import logits
from dreamtune.model.facts import Facts, set_facts
from dreamtune.model.loading import attach_lora
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import Comparison
from dreamtune.settings.train import LoraSettings, TrainConfig

VOCABULARY, MASK, END = 23, 22, 21


def tiny_model(seed: int = 0) -> Any:
    """A random Dream-shaped model with weights large enough that every visible token matters."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=1, initializer_range=0.7, **sizes)
    config.is_causal = False
    set_facts(config, Facts("dream"))
    model = Qwen2ForCausalLM(config).eval()
    return model


def tuned_model(strength: float = 0.3) -> Any:
    """The same with an adapter whose update is `strength` times noise; 0 is a fresh adapter."""
    tuned = attach_lora(tiny_model(), LoraSettings(rank=2, alpha=4, target_modules=["q_proj", "v_proj"]), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(strength * torch.randn(weight.shape, generator=generator))
    return tuned


def examples(count: int, length: int = 5) -> list[Example]:
    rng = np.random.default_rng(3)
    return [
        Example(i, (*tuple(rng.integers(0, 20, 3 + i % 4 + length - 1).tolist()), END), 3 + i % 4) for i in range(count)
    ]


def sums(model: Any, jobs: list[Job]) -> np.ndarray:
    return elbo.summed_cross_entropy(model, jobs, MASK)


def exact_nll(model: Any, example: Example) -> float:
    """Enumerate every mask of every size."""
    length, total = example.response, 0.0
    for k in range(1, length + 1):
        jobs = [Job(example, 0, mask) for mask in itertools.combinations(range(length), k)]
        total += (length / k) * sums(model, jobs).mean() / length
    return total


def bernoulli_estimates(model: Any, example: Example, count: int, seed: int) -> np.ndarray:
    """What the estimator replaces: t uniform, each position masked with probability t, weight 1/t."""
    rng, length = np.random.default_rng(seed), example.response
    t = rng.random(count)
    masks = [tuple(np.flatnonzero(rng.random(length) < share).tolist()) for share in t]
    values = np.zeros(count)
    some = [i for i, mask in enumerate(masks) if mask]
    values[some] = sums(model, [Job(example, 0, masks[i]) for i in some]) / t[some]
    return values


def test_count_form_equals_the_integral_over_t() -> None:
    """The docstring's derivation, by quadrature over t of every mask's Bernoulli probability."""
    model, example = tiny_model(), examples(1, length=4)[0]
    length = example.response
    masks = [m for k in range(1, length + 1) for m in itertools.combinations(range(length), k)]
    ce = sums(model, [Job(example, 0, m) for m in masks])
    t, weights = np.polynomial.legendre.leggauss(20)
    t, weights = (t + 1) / 2, weights / 2
    integral = sum(
        float((weights * t ** (len(m) - 1) * (1 - t) ** (length - len(m))).sum()) * c
        for m, c in zip(masks, ce, strict=True)
    )
    assert integral == pytest.approx(exact_nll(model, example), rel=1e-5)


def test_the_estimate_converges_to_the_exact_value_with_half_the_variance_or_less() -> None:
    model, example = tiny_model(), examples(1, length=6)[0]
    exact = exact_nll(model, example)
    draws, repeats = 8, 300
    ours = []
    for seed in range(repeats):
        settings = LikelihoodConfig(draws=draws, seed=seed)
        jobs = [job for job in plan_jobs([example], settings) if job.draw != EVERYTHING]
        masked = np.array([len(job.masked) for job in jobs])
        ours.append((sums(model, jobs) * example.response / masked).mean())
    error = np.std(ours) / np.sqrt(repeats)
    assert abs(np.mean(ours) - exact) < 4 * error < 0.05 * exact
    theirs = bernoulli_estimates(model, example, draws * repeats, seed=0).reshape(repeats, draws).mean(1)
    assert np.var(ours) <= 0.5 * np.var(theirs)


def test_masks_are_a_function_of_their_keys_with_stratified_counts() -> None:
    length, draws = 12, 6
    masks = [mask_positions(0, 7, d, draws, length) for d in range(draws)]
    assert masks == [mask_positions(0, 7, d, draws, length) for d in range(draws)]
    for draw, mask in enumerate(masks):
        low, high = 1 + draw * length // draws, (draw + 1) * length // draws
        assert low <= len(mask) <= high
        assert len(set(mask)) == len(mask) and set(mask) <= set(range(length))
    assert mask_positions(1, 7, 3, draws, length) != masks[3] or mask_positions(0, 8, 3, draws, length) != masks[3]
    assert mask_positions(0, 0, 0, 1, 1) == (0,)


def test_counts_and_positions_are_uniform() -> None:
    counts = [len(mask_positions(0, i, 0, 1, 4)) for i in range(4000)]
    assert np.bincount(counts, minlength=5)[1:] == pytest.approx([1000] * 4, abs=120)
    first = [mask_positions(0, i, 0, 1, 4) for i in range(4000)]
    share = np.bincount([p for mask in first for p in mask], minlength=4) / sum(map(len, first))
    assert share == pytest.approx([0.25] * 4, abs=0.02)


def test_batching_changes_nothing_and_fills_its_budget() -> None:
    model, rows = tiny_model(), examples(9)
    one = heldout_nll(model, rows, LikelihoodConfig(draws=3, batch_tokens=1), MASK)
    many = heldout_nll(model, rows, LikelihoodConfig(draws=3, batch_tokens=500), MASK)
    assert one.drop("nll").equals(many.drop("nll"))
    assert one["nll"].to_numpy() == pytest.approx(many["nll"].to_numpy(), rel=1e-4)
    jobs = plan_jobs(rows, LikelihoodConfig(draws=3))
    groups = list(batches(jobs, 40))
    assert sorted(i for g in groups for i in g) == list(range(len(jobs)))
    assert all(len(g) * max(len(jobs[i].example.tokens) for i in g) <= 40 for g in groups)


def test_reported_nll_is_a_ratio_of_sums_over_draws_only() -> None:
    frame = pl.DataFrame(
        {"example_id": [0, 0, 0, 1, 1], "draw": [0, 1, -1, 0, 1], "response_tokens": [2, 2, 2, 8, 8],
         "masked": [1, 2, 2, 4, 8], "nll": [2.0, 4.0, 99.0, 8.0, 8.0]}
    )  # fmt: skip
    assert per_example(frame)["nll"].to_list() == [3.0, 8.0]
    assert nats_per_token(frame) == 11 / 10


def write_shards(folder: Path, rows: dict[str, list[Example]], complete: bool = True) -> Path:
    """Write shards as prepare_shards does, with a second end token that must not count."""
    folder.mkdir()
    splits: dict[str, Any] = {}
    for split, chosen in rows.items():
        files = []
        if chosen:
            files = [f"{split}-00000.arrow"]
            features = datasets.Features(
                {"example_id": datasets.Value("int64"), "cluster": datasets.Value("int64"),
                 "input_ids": [datasets.Value("int32")],
                 "prompt_tokens": datasets.Value("int32"), "complete": datasets.Value("bool")}
            )  # fmt: skip
            with ArrowWriter(path=str(folder / files[0]), features=features) as writer:
                for e in chosen:
                    tokens = [*list(e.tokens), END] if complete else list(e.tokens[:-1])
                    row = {
                        "example_id": e.example_id,
                        "cluster": max(e.example_id, 1),  # the first two are alike
                        "input_ids": tokens,
                        "prompt_tokens": e.prompt,
                    }
                    writer.write(row | {"complete": complete})
                writer.finalize()
        splits[split] = {"rows": len(chosen), "files": files}
    meta = {"tokenizer": {"mask_id": MASK, "end_id": END}, "splits": splits}
    (folder / "shards.json").write_text(json.dumps(meta))
    return folder


def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, rows: int = 20, max_tail: int = 0
) -> tuple[pl.DataFrame, Any]:
    test = examples(rows)
    train = [Example(1000 + e.example_id, (*e.tokens[::-1][1:], END), e.prompt) for e in test]
    shards = write_shards(tmp_path / "shards", {"train": train, "validation": [], "test": test})
    monkeypatch.setattr(likelihood, "load", lambda config, trained: model)
    out = tmp_path / "out"
    out.mkdir()
    settings = LikelihoodConfig(draws=4)
    (tmp_path / "training.json").write_text(json.dumps({"rows": rows}))
    folder, base = tmp_path / "adapter", ModelConfig(path="tiny")
    counts = likelihood.evaluate_likelihood(settings, base, shards, folder, out, train=TrainConfig(max_tail=max_tail))
    content = json.loads((out / "likelihood.json").read_text())
    assert counts == {"rows": rows, "draws": 4, "tokens": 5 * rows}
    return pl.read_parquet(out / "likelihood.parquet"), content


def test_an_adapter_of_zeros_changes_nothing_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, content = evaluate(tmp_path, monkeypatch, tuned_model(0.0))
    assert (frame["nll_base"] == frame["nll_tuned"]).all()
    assert content["nll"]["base"] == content["nll"]["tuned"] > 0
    delta = compare_nll(frame, Comparison(resamples=200))["delta"]
    assert (delta["value"], delta["low"], delta["high"], delta["p"]) == (0.0, 0.0, 0.0, 1.0)
    gap = content["canaries"][2]
    assert gap["value"] == 0.0 and gap["passed"] is True


def test_the_stage_writes_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned_model()
    frame, content = evaluate(tmp_path, monkeypatch, model)
    assert frame.height == 20 * 5 and frame["cluster"].equals(frame["example_id"].clip(1).rename("cluster"))
    assert (frame["response_tokens"] == 5).all()  # up to the first end token, inclusive
    blind = frame.filter("everything_masked")
    assert (blind["masked"] == 5).all() and blind.height == 20
    with model.disable_adapter():
        base = heldout_nll(model, examples(20), LikelihoodConfig(draws=4), MASK)
    assert frame["nll_base"].to_numpy() == pytest.approx(base["nll"].to_numpy(), rel=1e-5)
    assert (frame["nll_base"] != frame["nll_tuned"]).all()
    drawn = sum(bin["draws"] for bin in content["by_mask_rate"])
    assert drawn == 80 and all(bin["base"] > 0 for bin in content["by_mask_rate"])
    assert [c["hard"] for c in content["canaries"]] == [False] * 3 + [True] * 6
    assert all(c["low"] <= c["value"] <= c["high"] for c in content["canaries"][:3])
    assert all(c["passed"] is not False for c in content["canaries"][3:])


def test_an_empty_test_split_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, content = evaluate(tmp_path, monkeypatch, None, rows=0)
    assert frame.height == 0
    assert content["nll"] == {"base": None, "tuned": None} and content["canaries"] == []


def test_a_few_rows_are_not_enough_for_a_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, content = evaluate(tmp_path, monkeypatch, tuned_model(), rows=3)
    assert [c["passed"] for c in content["canaries"] if not c["hard"]] == [None] * 3
    assert "not enough data" in content["canaries"][0]["note"]


def test_a_broken_adapter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not finite"):
        evaluate(tmp_path, monkeypatch, tuned_model(float("nan")))


def test_a_cut_row_counts_up_to_its_cut(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", {"test": examples(4)}, complete=False)
    assert [e.response for e in likelihood.read_examples(shards, "test")] == [4] * 4
    assert len(likelihood.read_examples(shards, "test", 2)) == 2
    assert [e.example_id for e in likelihood.read_examples(shards, "test", 2, spread_over=4)] == [0, 3]
    assert [e.example_id for e in likelihood.read_examples(shards, "test", 2, spread_over=2)] == [0, 1]


def test_only_the_masked_rows_reach_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and loss over the whole sequence would cost ten times as much on a large vocabulary."""
    seen: list[int] = []

    def head(model: Any, rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return torch.zeros(len(rows), VOCABULARY)

    fake = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    monkeypatch.setattr(elbo, "hidden_states", lambda model, ids, mask: torch.zeros(*ids.shape, 4))
    monkeypatch.setattr(logits, "apply_head", head)
    example = examples(1)[0]
    ce = elbo.summed_cross_entropy(fake, [Job(example, 0, (0, 2)), Job(example, 1, (1,))], MASK)
    assert seen == [3]
    assert ce == pytest.approx([2 * np.log(VOCABULARY), np.log(VOCABULARY)])
