"""The loop end to end on a tiny model: its files, its arithmetic, and the gate."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamtune.errors import UserError
from dreamtune.model.loading import load
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.train import micro_batches as accumulate
from dreamtune.train import steps as training
from dreamtune.train.train import train_adapter
from tiny import make_model, make_shards, settings
from training_runs import Train, adapter, log, losses, read, steps

pytest_plugins = "training_runs"  # its fixtures


def test_files_and_numbers(shared: Train) -> None:
    out = shared()
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "gate.json",
        "train_log.jsonl",
        "training.json",
    ]
    assert steps(out) == list(range(1, 13))
    keys = {"step", "epoch", "loss", "elbo", "lr", "grad_norm", "tokens", "tokens_per_s", "memory_gib", "wall_s"}
    assert all(set(line) == keys for line in log(out) if "loss" in line)
    summary = read(out, "training.json")
    assert (summary["steps"], summary["epochs"], summary["rows"]) == (12, 2, 24)
    assert summary["first_loss"] == pytest.approx(sum(losses(out)[:6]) / 6)
    assert summary["last_loss"] == pytest.approx(sum(losses(out)[-6:]) / 6)
    assert summary["tokens"] == log(out)[-2]["tokens"] and summary["resumed_from"] == []
    assert [v["step"] for v in summary["validation"]] == [0, 6, 12]
    assert summary["trainable"] < summary["parameters"] and summary["peak_memory_gib"] > 0
    assert read(out, "gate.json")["passed"]


def test_smoke_predicts_the_full_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = train("smoke", rows=4, epochs=6)
    measured = read(smoke, "training.json")
    full = read(train("full", smoke, epochs=4), "training.json")
    said = capsys.readouterr().err
    assert "smoke predicts" in said and "for 24 steps" in said
    assert "predicted_minutes" not in measured and full["ran_as"] == measured["ran_as"]
    seconds = 60 * full["predicted_minutes"]
    assert seconds == pytest.approx(measured["seconds_per_token"] * full["tokens"], rel=0.1, abs=0.06)
    assert full["predicted_memory_gib"] == measured["peak_memory_gib"]


def test_a_run_with_fewer_processes_than_smoke_is_predicted_to_take_longer(train: Train) -> None:
    smoke = train("smoke", micro_batch_tokens=1, max_steps=2)
    measured = read(smoke, "training.json")
    assert measured["processes"] == 1

    def predicted(processes: int) -> float:
        """Return the minutes by a smoke on so many; at an hour a token the digits are not rounded away."""
        changed = measured | {"processes": processes, "seconds_per_token": 3600.0}
        (smoke / "training.json").write_text(json.dumps(changed))
        after = train(f"after-{processes}", smoke, micro_batch_tokens=1, max_steps=2)
        return read(after, "training.json")["predicted_minutes"]

    assert predicted(2) == pytest.approx(2 * predicted(1), rel=0.05)


def test_a_run_that_will_not_fit_is_refused_until_it_runs_in_another_way(
    train: Train, shared: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = shutil.copytree(shared(), tmp_path / "smoke")
    measured = read(smoke, "training.json")
    (smoke / "training.json").write_text(json.dumps(measured | {"peak_memory_gib": 1e6}))
    with pytest.raises(UserError, match=r"needs 1000000\.0 GiB.*set train\.memory_gib"):
        train("full", smoke)
    assert read(train("full", smoke, on_failed_gate="continue", max_steps=2), "gate.json")["passed"]
    capsys.readouterr()
    smaller = train("smaller", smoke, micro_batch_tokens=1, max_steps=2)
    assert "smoke predicts nothing" in capsys.readouterr().err
    assert "predicted_minutes" not in read(smaller, "training.json")


def test_a_loss_that_breaks_at_the_last_step_stops(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop tests each loss before it steps; what the last step did, only validation and canaries can see."""
    rate = training.learning_rate
    monkeypatch.setattr(
        training, "learning_rate", lambda step, total, t: 1e30 if step == total else rate(step, total, t)
    )
    with pytest.raises(UserError, match=r"validation loss is nan|validation loss is inf"):
        train("a", max_steps=3)
    with pytest.raises(UserError, match="loss_finite_last_window"):
        train("b", max_steps=3, validation_rows=0)


def test_rows_that_hide_nothing_are_refused(base: ModelConfig, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", train=1)
    refused, few = 0, {"epochs": 1, "max_tail": 0, "mask_counts": "random"}
    for seed in range(12):
        out = tmp_path / f"out-{seed}"
        out.mkdir()
        try:
            train_adapter(settings(**few, seed=seed), base, shards, out, tmp_path / f"work-{seed}")
        except UserError as error:
            assert "nothing to learn or to judge" in str(error)
            refused += 1
    assert 0 < refused < 12


def test_it_learns(train: Train) -> None:
    """Twenty-four rows can be memorised; the cross entropy of hidden tokens must fall by a third."""
    lora = settings().lora.model_copy(update={"dropout": 0.0, "rank": 8, "alpha": 16})
    curve = losses(
        train(objective="uniform", lora=lora, epochs=40, micro_batch_tokens=200, validation_rows=0, log_every=24)
    )
    assert curve[-1] < 2 / 3 * curve[0]


def test_the_log_line_means_the_windows_since_the_last(shared: Train) -> None:
    every, fifth = shared(), shared(log_every=5)
    assert steps(fifth) == [5, 10, 12]
    single = losses(every)
    assert losses(fifth) == pytest.approx([sum(single[:5]) / 5, sum(single[5:10]) / 5, sum(single[10:]) / 2])
    assert adapter(every) == adapter(fifth)


def test_elbo_is_the_loss_where_it_is_trained_without_tails(train: Train) -> None:
    for line in log(train(max_tail=0)):
        assert "loss" not in line or line["elbo"] == pytest.approx(line["loss"], rel=1e-5)


def test_elbo_is_reported_whatever_is_trained(train: Train) -> None:
    """At a learning rate of nearly nothing the reported bound is that of the base, for every weighting."""
    bounds = {
        name: log(train(name, objective=name, learning_rate=1e-30, max_steps=1))[1]
        for name in ("elbo", "cart", "uniform")
    }
    assert bounds["cart"]["elbo"] == pytest.approx(bounds["elbo"]["elbo"], rel=1e-5)
    assert bounds["uniform"]["elbo"] == pytest.approx(bounds["elbo"]["elbo"], rel=1e-5)
    assert len({round(line["loss"], 4) for line in bounds.values()}) == 3


def test_passes_and_recomputing_change_nothing_but_rounding(train: Train) -> None:
    few = {"lora": settings().lora.model_copy(update={"dropout": 0.0}), "max_steps": 6}
    runs = [train(str(n), **few, micro_batch_tokens=n) for n in (1, 200)]
    runs += [train(f"layers-{n}", **few, micro_batch_tokens=200, recompute_layers=n) for n in (1, 99)]
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), rel=2e-3)
    assert adapter(runs[1]) == adapter(runs[2]) == adapter(runs[3])
    assert [read(run, "training.json")["ran_as"]["recompute_layers"] for run in runs] == [0, 0, 1, 2]


@pytest.mark.parametrize("fails", [1, 2])
def test_out_of_memory_takes_smaller_passes_and_goes_on(
    train: Train, shared: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: int
) -> None:
    """In the middle of a window, after other micro-batches have added to the gradients: nothing is counted twice."""
    lora = settings().lora.model_copy(update={"dropout": 0.0})
    whole = shared(lora=lora, micro_batch_tokens=200)
    original, calls = accumulate.weighted_loss, 0

    def fragile(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if 8 <= calls < 8 + fails:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(model, batch)

    monkeypatch.setattr(accumulate, "weighted_loss", fragile)
    out = train("short", lora=lora, micro_batch_tokens=45)
    assert capsys.readouterr().err.count("out of GPU memory; going on with") == fails
    assert losses(out) == pytest.approx(losses(whole), rel=2e-3)
    ran = read(out, "training.json")["ran_as"]
    assert ran["micro_batch_tokens"] == 45 and ran["cut_tokens"] < 45
    assert fails == 1 or ran["recompute_layers"] == 2


def test_out_of_memory_for_good_says_what_to_do(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(accumulate, "weighted_loss", never)
    with pytest.raises(UserError, match=r"out of GPU memory; lower data\.max_tokens"):
        train(validation_rows=0)


def test_nf4_and_bfloat16_train(train: Train, base: ModelConfig) -> None:
    out = train(model=base.model_copy(update={"quantization": "nf4", "dtype": "bfloat16"}), max_steps=3)
    assert read(out, "gate.json")["passed"], read(out, "gate.json")
    assert all(math.isfinite(loss) for loss in losses(out))
    assert all(line["grad_norm"] > 0 for line in log(out) if "loss" in line)


def test_no_validation(train: Train) -> None:
    assert read(train(validation_rows=0), "training.json")["validation"] == []


def test_validation_by_steps_and_at_the_end(train: Train) -> None:
    validation = read(train(validate_every=5), "training.json")["validation"]
    assert [line["step"] for line in validation] == [0, 5, 10, 12]


def test_tensorboard_on_request(train: Train, tmp_path: Path) -> None:
    train(tensorboard=True, max_steps=1)
    assert list((tmp_path / "work/tensorboard").glob("events*"))


def test_weights_do_not_know_where_the_base_lies(train: Train, tmp_path: Path) -> None:
    here, there = make_model(tmp_path / "here"), make_model(tmp_path / "some/where/else")
    one, two = train("a", model=here, max_steps=2), train("b", model=there, max_steps=2)
    assert adapter(one) == adapter(two)
    assert read(two, "adapter/adapter_config.json")["base_model_name_or_path"] == there.path


def test_full_starts_from_the_base(train: Train, shared: Train, base: ModelConfig) -> None:
    """Given smoke as its gate, full is to the bit what it is without: nothing of smoke's adapter enters."""
    smoke = train("smoke", rows=8, epochs=1, learning_rate=5e-2)
    (smoke / "adapter").rename(apart := smoke.with_name("smokes-adapter"))  # a gate is read without it
    assert adapter(train("full", gate=smoke)) == adapter(shared())
    checks = {check["name"]: check for check in read(smoke, "gate.json")["checks"]}
    assert checks["starts_from_base_first_window"]["value"] == 0.0
    trained = load(base, apart)
    ids = torch.arange(8)[None]
    assert not torch.equal(trained(input_ids=ids).logits, load(base)(input_ids=ids).logits)


def test_copy_fails_its_gate_and_stops_full(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = train("smoke", objective="copy", rows=8, epochs=1)
    gate = read(smoke, "gate.json")
    failed = {check["name"] for check in gate["checks"] if not check["passed"] and check["hard"]}
    assert not gate["passed"] and "targets_hidden_first_window" in failed and "targets_hidden_last_window" in failed
    with pytest.raises(UserError, match=r"failed its gate: targets_hidden.*on_failed_gate"):
        train("full", gate=smoke, objective="copy")
    assert not (tmp_path / "full").exists() and not any((tmp_path / "out-1").iterdir())
    full = train("full", gate=smoke, objective="copy", on_failed_gate="continue")
    assert "can only be invalid" in capsys.readouterr().err
    assert read(full, "training.json")["gate_passed"] is False and not read(full, "gate.json")["passed"]
    assert all(line["elbo"] is None for line in log(full) if "loss" in line)
    assert all(v["validation_nll"] > 0 for v in read(full, "training.json")["validation"])


def test_full_stops_when_its_own_canaries_fail(train: Train) -> None:
    smoke = train("smoke", rows=8, epochs=1)
    with pytest.raises(UserError, match="own canaries failed"):
        train("full", gate=smoke, objective="copy")


def test_a_missing_gate(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no gate\.json"):
        train(gate=tmp_path)


def test_a_loss_that_is_not_finite_always_stops(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = accumulate.weighted_loss
    monkeypatch.setattr(
        accumulate, "weighted_loss", lambda model, batch: tuple(v * torch.nan for v in original(model, batch))
    )
    with pytest.raises(UserError, match=r"step 1: the loss is nan.*learning_rate"):
        train(on_failed_gate="continue", validation_rows=0)
    assert not (tmp_path / "work/checkpoints").exists()
    assert [path.name for path in (tmp_path / "out-0").iterdir()] == ["train_log.jsonl"]


def test_paged_optimizer_needs_a_gpu(train: Train) -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        train(optimizer="paged_adamw_8bit")


def test_unknown_target_module(train: Train) -> None:
    with pytest.raises(UserError, match="q_prj"):
        train(lora=settings().lora.model_copy(update={"target_modules": ["q_prj"]}))
