"""Training runs of causal models: the canaries turned round, faults planted, runs that resume, merges.

The model is the embedded one, read as the Qwen2 that it is.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from dreamtune.errors import UserError
from dreamtune.evaluate.draws import nats_per_token
from dreamtune.evaluate.elbo import heldout_nll
from dreamtune.evaluate.examples import read_examples
from dreamtune.merge import merge_adapter
from dreamtune.model import logits
from dreamtune.model.attention import NAME, attend
from dreamtune.model.loading import load
from dreamtune.objective.packing import collate
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter
from planted import BASE, QUICK, Plant, checks
from planted import make_shards as embedded_shards
from tests.test_merge import make_adapter
from training_runs import adapter, log, losses, read

pytest_plugins = "planted"  # its fixture
EMBEDDED = {"family": "qwen2", "attention": "causal"}  # the embedded model, read as the Qwen2 that it is


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_shards(tmp_path_factory.mktemp("data") / "shards")


Run = Callable[..., Path]


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> Run:
    """Return a function that trains a causal model into a new folder, one step if nothing else is said."""

    def start(
        work: str = "work", gate: Path | None = None, model: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        out.mkdir()
        train = TrainConfig(**(QUICK | {"objective": "causal", "max_tail": 0} | changes))
        base: ModelConfig = BASE.model_copy(update=EMBEDDED | (model or {}))
        train_adapter(train, base, shards, out, tmp_path / work, gate)
        return out

    return start


def caught(run: Run) -> set[str]:
    smoke = run("smoke")
    with pytest.raises(UserError, match="the smoke run failed its gate"):
        run("full", gate=smoke)
    failed = {name for name, check in checks(smoke).items() if check["hard"] and check["passed"] is False}
    return {name.removesuffix("_first_window").removesuffix("_last_window") for name in failed}


def test_a_run_learns_passes_its_canaries_and_resumes_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    lora = LoraSettings(rank=8, alpha=16, dropout=0.1, target_modules=["all-linear"])
    both = {"rows": 48, "epochs": 2, "validation_rows": 16, "log_every": 1, "lora": lora, "max_steps": None}
    whole = run("work", **both, checkpoint_steps=3)
    names = {name.removesuffix("_first_window") for name in checks(whole) if name.endswith("_first_window")}
    assert {"later_tokens_hidden", "attends_back", "targets_do_not_matter", "documents_apart"} <= names
    assert not names & {"targets_hidden", "attends_both_ways"}
    assert all(check["passed"] is not False for check in checks(whole).values() if check["hard"])
    assert read(whole, "gate.json")["passed"]
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    assert read(whole, "training.json")["tail_tokens"] == 0
    for line in log(whole):
        assert "loss" not in line or line["elbo"] == pytest.approx(line["loss"], rel=1e-5)  # the NLL itself
    first, *later = sorted((tmp_path / "work/checkpoints").iterdir())
    assert later and not read(whole, "training.json")["resumed_from"]
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    second = run("work", **both, checkpoint_steps=3)
    assert adapter(second) == adapter(whole)
    assert read(second, "training.json")["resumed_from"] == [int(first.name.removeprefix("step-"))]


def test_a_bidirectional_model_in_place_of_a_causal_one(plant: Plant, run: Run) -> None:
    def faulty(config: ModelConfig) -> Any:
        loaded = load(config)
        loaded.config.is_causal = False
        return loaded

    plant(load, faulty)
    assert caught(run) == {"later_tokens_hidden", "targets_do_not_matter"}


def test_a_shift_that_was_forgotten(plant: Plant, run: Run) -> None:
    """The row of a token has that token for its input: the loss falls by copying."""
    original = logits.hidden_states

    def faulty(*given: Any, **packing: Any) -> Tensor:
        hidden = original(*given, **packing)
        return torch.cat([hidden[:, 1:], hidden[:, -1:]], dim=1)

    plant(original, faulty)
    assert "targets_do_not_matter" in caught(run)


def test_documents_that_see_each_other(plant: Plant, run: Run) -> None:
    def faulty(rows: Any, device: Any = "cpu") -> Any:
        batch = collate(rows, device)
        return replace(batch, boundaries=batch.boundaries[[0, -1]], max_length=len(batch.input_ids))

    plant(collate, faulty)
    assert "documents_apart" in caught(run)


def test_a_model_that_sees_one_token_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(module: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
        groups = query.shape[1] // value.shape[1]
        return value.repeat_interleave(groups, dim=1).transpose(1, 2), None

    assert attend is AttentionInterface._global_mapping[NAME]
    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)
    found = caught(run)
    assert "attends_back" in found and "later_tokens_hidden" not in found


def test_an_objective_that_is_not_for_the_models_attention(run: Run) -> None:
    with pytest.raises(UserError, match=r"objective is causal, and model\.attention bidirectional"):
        run(model={"attention": "bidirectional"})
    with pytest.raises(UserError, match=r"objective is elbo, and model\.attention causal"):
        run(objective="elbo")


def test_full_fine_tuning_passes_its_canaries_and_its_checkpoint_is_causal(run: Run) -> None:
    out = run(finetuning="full", learning_rate=1e-4, max_steps=2)
    assert read(out, "gate.json")["passed"]
    trained = load(BASE.model_copy(update=EMBEDDED), out / "model")
    ids = torch.arange(4, 30)[None]
    later = ids.clone()
    later[0, 20:] = 5
    with torch.no_grad():
        assert torch.equal(trained(input_ids=ids).logits[:, :20], trained(input_ids=later).logits[:, :20])


def test_a_merge_compares_exact_likelihoods(shards: Path, tmp_path: Path) -> None:
    model = BASE.model_copy(update=EMBEDDED)
    adapter = make_adapter(Path(model.path), tmp_path / "adapter")
    summary = merge_adapter(model, adapter, tmp_path, shards, LikelihoodConfig(max_rows=8, draws=1))
    with torch.no_grad():
        nll = heldout_nll(load(model, adapter), read_examples(shards, "test", 8), LikelihoodConfig(draws=1), None)
    assert summary["nll"]["evaluated"] == pytest.approx(nats_per_token(nll))
    assert summary["nll"]["merged"] == pytest.approx(summary["nll"]["evaluated"], rel=1e-2)  # its weights are bf16
