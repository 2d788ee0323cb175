"""Full fine-tuning in one process: what plain AdamW makes of the windows, resumed to the bit, stored like the base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import ROOT
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import load
from dreamtune.model.logits import hidden_states
from dreamtune.objective.loss import loss_sums
from dreamtune.objective.packing import collate
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train import full_finetuning
from dreamtune.train import micro_batches as accumulate
from dreamtune.train.checkpoint import newest
from dreamtune.train.optimizer import learning_rate
from dreamtune.train.windows import Share, TrainingWindows, micro_batches, without_targets
from dreamtune.workflow.experiments import make_plan, plan_merge
from tests.train.test_resuming import Killed, kill_after
from tiny import plan, settings
from training_runs import Train, losses, read

pytest_plugins = "training_runs"  # its fixtures
FULL: dict[str, Any] = {"finetuning": "full", "learning_rate": 1e-3, "weight_decay": 0.01}


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/model.safetensors")


def test_it_trains_what_plain_adamw_does(shared: Train, base: ModelConfig, shards: Path) -> None:
    """The reference is written out here: no sharding, one document a micro-batch, torch's own sums and optimiser."""
    out = shared(**FULL)
    model, given = load(base), settings(**FULL)
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), given)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01)
    expected = []
    for step in range(1, windows.total + 1):
        rows = windows.noised(step)
        tokens, total = sum(row.loss_tokens for row in rows), 0.0
        for row in rows:
            loss = loss_sums(model, collate([row]))[0] / tokens
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), given.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, windows.total, given)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total)
    assert losses(out) == pytest.approx(expected, abs=1e-5)
    trained, untouched, reference = weights(out), load(base).state_dict(), model.state_dict()
    assert trained.keys() == reference.keys()
    for name, before in untouched.items():  # Adam makes whole steps of gradients that are all but rounding
        update = (reference[name] - before).norm()
        assert update > 0 and (trained[name] - reference[name]).norm() < 0.01 * update, name


def test_resumed_is_uninterrupted(train: Train, shared: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shared(**FULL)
    for dies_after in (3, 8):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(dies_after, patch)
            train("killed", checkpoint_steps=2, **FULL)
    resumed = train("killed", checkpoint_steps=2, **FULL)
    assert read(resumed, "training.json")["resumed_from"] == [2, 8]
    assert (resumed / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert losses(resumed) == losses(whole)
    found = newest(tmp_path / "killed/checkpoints")
    assert found and {weight.dtype for weight in found.weights.values()} == {torch.float32}


def test_the_result_is_a_checkpoint_like_the_base(train: Train, base: ModelConfig, tmp_path: Path) -> None:
    """A bf16 base gives a bf16 checkpoint, and what is written is what was trained, rounded once."""
    folder = tmp_path / "bf16"
    shutil.copytree(base.path, folder)
    stored = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    model = base.model_copy(update={"path": str(folder), "dtype": "bfloat16"})
    out = train("work", model=model, **FULL)
    assert (out / "model/config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert (out / "model/tokenizer.json").exists()
    exact = newest(tmp_path / "work/checkpoints")
    assert exact is not None
    for name, value in weights(out).items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, exact.weights[name].bfloat16())
        assert not torch.equal(exact.weights[name], exact.weights[name].bfloat16().float()), name  # it was not rounded
    gate, summary = read(out, "gate.json"), read(out, "training.json")
    assert gate["passed"] and summary["trainable"] == summary["parameters"]
    tokens = torch.arange(10)[None]
    tuned, untuned = load(model, out / "model"), load(model)
    assert not torch.equal(hidden_states(tuned, tokens), hidden_states(untuned, tokens))
    assert facts_of(tuned.config).family == "dream" and tuned.config.is_causal is False


def test_another_start_than_the_base_is_caught(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the whole model is off by one bit."""
    original = full_finetuning.shard

    def faulty(model: Any, kind: torch.dtype, device: torch.device) -> Any:
        with torch.no_grad():
            weight = model.model.layers[1].mlp.up_proj.weight
            weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
        return original(model, kind, device)

    monkeypatch.setattr(full_finetuning, "shard", faulty)
    checks = {check["name"]: check for check in read(train(**FULL), "gate.json")["checks"]}
    assert not checks.pop("starts_from_base_first_window")["passed"]
    assert all(check["passed"] is not False for check in checks.values())


def test_a_loss_that_is_not_finite_stops(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamtune.train.steps.learning_rate", lambda *_: 1e20)
    with pytest.raises(UserError, match=r"lower train\.learning_rate"):
        train(finetuning="full", weight_decay=0.0)


def test_tied_embeddings_are_one_line(train: Train, base: ModelConfig, tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    shutil.copytree(base.path, folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="ties its embeddings to its head"):
        train(model=base.model_copy(update={"path": str(folder)}), **FULL)


def test_every_process_takes_as_many_passes(shards: Path) -> None:
    """Processes that lack a micro-batch get one without targets, which changes no sum."""
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), settings())
    rows = windows.noised(1)
    alone = micro_batches(rows, Share(), plan(20))
    assert len(alone) % 3 and len(alone) > 1
    shares = [micro_batches(rows, Share(process, 3, synchronous=True), plan(20)) for process in range(3)]
    assert len({len(share) for share in shares}) == 1
    given = [documents for share in shares for documents in share]
    working = [documents for documents in given if any(row.supervised.any() for row in documents)]
    assert len(given) - len(working) == -len(alone) % 3
    assert sorted(map(id, (row for documents in working for row in documents))) == sorted(map(id, rows))
    spare = without_targets(rows[0])
    assert spare.loss_tokens == rows[0].loss_tokens  # of the window, which counts each document once
    assert not spare.weights.any() and not spare.elbo_weights.any()
    assert replace(spare, supervised=rows[0].supervised, weights=rows[0].weights).input_ids is rows[0].input_ids


BASE: dict[str, Any] = {"quantization": "none", "dtype": "float32"}


def configured(tmp_path: Path, **sections: Any) -> Any:
    pl.DataFrame({"q": ["?"], "r": [""], "a": ["1"]}).write_parquet(tmp_path / "rows.parquet")
    data = {"files": [str(tmp_path / "rows.parquet")], "columns": {"question": "q", "reasoning": "r", "answer": "a"}}
    model = BASE | {"path": str(tmp_path)} | sections.pop("model", {})
    return parse_config({"model": model, "data": data, **sections})


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": {"quantization": "nf4"}}, "experiments.main: train.finetuning full trains no nf4 weights"),
        ({"train": {"optimizer": "paged_adamw_8bit"}}, "experiments.main: train.finetuning full needs train.optimizer"),
        ({"train": {"products": "fp8"}}, "experiments.main: train.products fp8 is for frozen weights"),
        (
            {"train": {"finetuning": "lora", "products": "fp8", "weights": "packed"}},
            "experiments.main: train.products fp8 is made of dequantised weights",
        ),
        ({"train": {"finetuning": "lora", "products": "fp8"}}, "experiments.main: train.products fp8 needs model.dev"),
    ],
)
def test_contradictions_are_one_line(tmp_path: Path, sections: dict[str, Any], says: str) -> None:
    train = {"finetuning": "full"} | sections.pop("train", {})
    with pytest.raises(UserError, match=says):
        configured(tmp_path, train=train, **sections)


def test_there_is_nothing_to_merge(base: ModelConfig, tmp_path: Path) -> None:
    tokenizer = ROOT / "resources/tiny-dream"
    config = configured(
        tmp_path, model={"path": str(tokenizer)}, experiments={"a": {}, "b": {"train": {"finetuning": "full"}}}
    )
    plan_, latest = make_plan(config)
    assert plan_merge(plan_, config, latest).keys() == {"a"}
    assert latest["a"]["full"] != latest["b"]["full"] and latest["a"]["shards"] == latest["b"]["shards"]


def test_memory_that_does_not_suffice_says_what_helps(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is not repeated: other processes would wait for the micro-batches of the first attempt."""

    def no_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(accumulate, "weighted_loss", no_memory)
    with pytest.raises(UserError, match=r"out of GPU memory; lower train\.micro_batch_tokens, .* or take more GPUs"):
        train(**FULL)
