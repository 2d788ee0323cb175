"""The likelihood of causal models: exact, by transformers' own logits; the stage's files; planted faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from autoregressive import END, KINDS, MASK, VOCABULARY, theirs, write_model
from dreamtune.evaluate import elbo, likelihood
from dreamtune.evaluate.comparison import compare_nll
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import Example
from dreamtune.formats.likelihood import LIKELIHOOD
from dreamtune.model import logits
from dreamtune.model.loading import attach_lora, load
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.report import Comparison
from dreamtune.settings.train import TrainConfig
from tests.evaluate.test_likelihood import write_shards


def examples(count: int, first: int = 0) -> list[Example]:
    rng = np.random.default_rng(first)
    found = []
    for number in range(count):
        prompt, response = int(rng.integers(2, 6)), int(rng.integers(3, 9))
        tokens = (*rng.integers(4, VOCABULARY, prompt + response).tolist(), END)
        found.append(Example(first + number, tokens, prompt))
    return found


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model as this project loads it, with an adapter that does something, and as transformers does, without."""
    config = write_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    model = attach_lora(load(config), LoraSettings(rank=2, alpha=4, target_modules=["q_proj", "v_proj"]), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model, theirs(config)


@pytest.mark.numeric
def test_the_nll_is_minus_log_p_of_the_response_and_its_end_by_transformers_logits(both: tuple[Any, Any]) -> None:
    model, plain = both
    rows = examples(9)
    with model.disable_adapter():
        frame = heldout_nll(model, rows, LikelihoodConfig(batch_tokens=40), mask_id=None)
    assert frame["draw"].to_list() == [0] * 9 and frame["masked"].equals(frame["response_tokens"].rename("masked"))
    for example, nll in zip(rows, frame["nll"], strict=True):
        tokens = torch.tensor([example.tokens])
        with torch.no_grad():
            log_p = plain(input_ids=tokens).logits[0, :-1].log_softmax(dim=-1)
        scored = log_p[torch.arange(len(example.tokens) - 1), tokens[0, 1:]][example.prompt - 1 :]
        assert len(scored) == example.response and nll == pytest.approx(-scored.sum().item(), rel=1e-5)


def evaluate(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch, rows: int = 24) -> tuple[pl.DataFrame, Any]:
    """Run the stage; return its table and the content of likelihood.json."""
    splits = {"train": examples(rows, 1000), "validation": [], "test": examples(rows)}
    shards = write_shards(folder / "shards", splits)
    meta = {"tokenizer": {"mask_id": MASK, "end_id": END}}
    (shards / "shards.json").write_text(json.dumps(json.loads((shards / "shards.json").read_text()) | meta))
    (folder / "training.json").write_text(json.dumps({"rows": rows}))
    (out := folder / "out").mkdir()
    monkeypatch.setattr(likelihood, "load", lambda config, trained: model)
    config = write_model(folder / "qwen2", "qwen2")
    settings = LikelihoodConfig(draws=1, batch_tokens=64)
    train = TrainConfig(objective="causal", max_tail=0)
    counts = likelihood.evaluate_likelihood(settings, config, shards, folder / "adapter", out, train=train)
    assert counts["rows"] == rows and counts["draws"] == 1
    return pl.read_parquet(out / "likelihood.parquet"), json.loads((out / "likelihood.json").read_text())


def failing(content: Any) -> set[str]:
    return {check["name"] for check in content["canaries"] if check["hard"] and check["passed"] is False}


def test_the_stage_says_that_the_number_is_exact(
    both: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, content = evaluate(tmp_path, both[0], monkeypatch)
    assert frame.schema == LIKELIHOOD and not frame["everything_masked"].any() and frame.height == 24
    assert content["kind"] == "exact" and content["by_mask_rate"] == []
    assert content["nll"]["base"] != content["nll"]["tuned"] and content["full"]["base"] is None
    assert content["everything_masked"] == {"base": None, "tuned": None}
    hard = {check["name"]: check for check in content["canaries"] if check["hard"]}
    assert hard.keys() == {
        "targets_do_not_matter",
        "later_tokens_hidden",
        "attends_back",
        "documents_apart",
        "targets_scored",
        "rows_aligned",
    }
    assert failing(content) == set()
    for name in hard.keys() - {"rows_aligned"}:
        assert hard[name]["passed"] and int(hard[name]["expected"].split()[2]) >= 5, name
    assert [check["name"].split()[0] for check in content["canaries"] if not check["hard"]] == ["shuffled", "train"]
    block = compare_nll(frame, Comparison(resamples=100))
    assert block["base"]["value"] == pytest.approx(content["nll"]["base"])


Plant = Callable[[Callable[..., torch.Tensor]], None]


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Return a function that replaces the one by which the likelihood runs the model."""
    return lambda faulty: monkeypatch.setattr(elbo, "hidden_states", faulty)


def test_a_model_that_sees_later_tokens(both: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = both[0].get_base_model()
    monkeypatch.setattr(base.config, "is_causal", False)
    for layer in base.model.layers:
        monkeypatch.setattr(layer.self_attn, "is_causal", False)
    _, content = evaluate(tmp_path, both[0], monkeypatch)
    assert failing(content) == {"targets_do_not_matter", "later_tokens_hidden"}


def test_a_shift_that_was_forgotten(
    both: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_by: Plant
) -> None:
    def faulty(*given: Any) -> torch.Tensor:
        hidden = logits.hidden_states(*given)
        return torch.cat([hidden[:, 1:], hidden[:, -1:]], dim=1)

    read_by(faulty)
    _, content = evaluate(tmp_path, both[0], monkeypatch)
    assert "targets_do_not_matter" in failing(content)


def test_rows_of_a_batch_that_see_each_other(
    both: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_by: Plant
) -> None:
    def faulty(*given: Any) -> torch.Tensor:
        hidden = logits.hidden_states(*given)
        return hidden + 1e-3 * hidden.mean(dim=(0, 1), keepdim=True)

    read_by(faulty)
    _, content = evaluate(tmp_path, both[0], monkeypatch)
    assert "documents_apart" in failing(content)


def test_a_model_that_sees_one_token_only(
    both: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_by: Plant
) -> None:
    def alone(model: Any, ids: torch.Tensor, seen: Any) -> torch.Tensor:
        eye = torch.eye(ids.shape[1], dtype=torch.bool)[None, None].expand(len(ids), -1, -1, -1)
        return logits.hidden_states(model, ids, eye)

    read_by(alone)
    _, content = evaluate(tmp_path, both[0], monkeypatch)
    assert failing(content) == {"attends_back"}
