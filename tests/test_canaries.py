"""Each canary must sing when its leak is built in, and stay silent on the real path."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from dreamtune import canaries
from dreamtune.batching import Share, TrainingWindows
from dreamtune.checks import Check, at, failed, verdict
from dreamtune.diffusion import Batch
from dreamtune.model import attach_lora, load
from dreamtune.shards import read_meta, read_split
from tiny import END, IDS, make_model, make_shards, settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PeftModel:
    return attach_lora(load(make_model(tmp_path_factory.mktemp("model") / "base")), settings().lora, seed=0)


def window(shards: Path, step: int = 2, **changes: Any) -> tuple[tuple[Batch, ...], dict[int, Any]]:
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), settings(**changes))
    return windows.window(step, Share()).batches, windows.stored(step)


def failing(checks: Sequence[Check]) -> set[str]:
    return {check["name"] for check in checks if not check["passed"]}


@pytest.mark.parametrize("objective", ["elbo", "cart", "uniform"])
@pytest.mark.parametrize("complementary", [False, True])
def test_honest_objectives_pass(model: PeftModel, shards: Path, objective: str, complementary: bool) -> None:
    batches, stored = window(shards, objective=objective, complementary=complementary)
    checks = [*canaries.check_window(model, batches, stored, IDS), canaries.starts_from_base(model, batches)]
    assert failing(checks) == set()
    assert {check["name"] for check in checks if check["hard"]} == {
        "targets_hidden",
        "loss_only_on_response",
        "targets_do_not_matter",
        "attends_both_ways",
        "loss_finite",
        "starts_from_base",
    }
    for check in checks:
        assert set(check) == {"name", "hard", "passed", "value", "expected", "fault"}


def test_copy_fails_by_what_is_seen(model: PeftModel, shards: Path) -> None:
    batches, stored = window(shards, objective="copy")
    checks = canaries.check_window(model, batches, stored, IDS)
    assert failing(checks) >= {"targets_hidden", "loss_only_on_response", "targets_do_not_matter"}
    assert not verdict(checks)["passed"]
    assert "targets_hidden" in failed(checks)[0]


def test_no_canary_knows_the_objective() -> None:
    tree = ast.parse(Path(canaries.__file__).read_text(encoding="utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "objective" not in attributes


def test_one_visible_target_is_found(shards: Path) -> None:
    batches, _ = window(shards)
    batch = batches[-1]
    batch.input_ids.flatten()[batch.positions[0]] = batch.targets[0]
    assert canaries.targets_hidden(batches, IDS["mask_id"])["value"] == 1


@pytest.mark.parametrize("column", [0, 1, -1], ids=["position 0", "prompt", "padding"])
def test_loss_outside_the_response_is_found(shards: Path, column: int) -> None:
    batches, stored = window(shards, global_batch=8, micro_batch=8)
    batch = batches[0]
    assert batch.attention_mask is not None and batch.attention_mask[0, -1] == 0
    place = torch.tensor([column % batch.input_ids.shape[1]])
    tampered = replace(batch, positions=torch.cat([batch.positions, place]))
    assert canaries.loss_only_on_response([batch], stored, END)["passed"]
    assert canaries.loss_only_on_response([tampered], stored, END)["value"] == 1


def test_end_tokens_after_a_cut_answer_are_found(shards: Path) -> None:
    """The row says that the answer is complete when the document is made, and that it is cut when it is judged."""
    batches, stored = window(shards, max_tail=20, seed=3)
    assert any(row.document.tail_tokens for batch in batches for row in batch.rows)
    cut = {example: row | {"complete": False} for example, row in stored.items()}
    assert canaries.loss_only_on_response(batches, stored, END)["passed"]
    assert not canaries.loss_only_on_response(batches, cut, END)["passed"]


def test_a_causal_mask_is_found(tmp_path: Path, shards: Path) -> None:
    config = make_model(tmp_path / "base").model_copy(update={"attention": "causal"})
    batches, _ = window(shards)
    check = canaries.attends_both_ways(load(config), batches, IDS)
    assert not check["passed"] and check["value"] > 0


def test_a_trained_adapter_does_not_start_from_the_base(tmp_path: Path, shards: Path) -> None:
    model = attach_lora(load(make_model(tmp_path / "base")), settings().lora, seed=0)
    batches, _ = window(shards)
    assert canaries.starts_from_base(model, batches)["value"] == 0.0
    weight = next(p for name, p in model.named_parameters() if "lora_B" in name)
    torch.nn.init.constant_(weight, 1e-3)
    assert not canaries.starts_from_base(model, batches)["passed"]


def test_a_loss_that_is_not_finite_is_found(tmp_path: Path, shards: Path) -> None:
    model = load(make_model(tmp_path / "base"))
    model.lm_head.weight.data[3] = torch.nan
    finite, plausible = canaries.loss_is_sane(model, window(shards)[0], IDS["vocab_size"])
    assert not finite["passed"] and finite["hard"] and finite["value"] is None
    assert not plausible["passed"] and not plausible["hard"]


def test_canaries_leave_the_model_as_it_was(model: PeftModel, shards: Path) -> None:
    batches, stored = window(shards)
    for training in (True, False):
        model.train(training)
        canaries.check_window(model, batches, stored, IDS)
        canaries.starts_from_base(model, batches)
        assert model.training is training and all(p.grad is None for p in model.parameters())


def test_verdict_needs_only_the_hard_checks() -> None:
    soft = {"name": "s", "hard": False, "passed": False, "value": 1, "expected": "0"}
    assert verdict([soft])["passed"] and not verdict([soft | {"hard": True}])["passed"]
    assert at("first_window", [soft])[0]["name"] == "s_first_window"
