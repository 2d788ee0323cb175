"""Each canary must sing when its leak is built in, and stay silent on the real path."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from dreamtune import checks
from dreamtune.canaries import alignment
from dreamtune.canaries import window as canaries
from dreamtune.canaries.alignment import _places, rows_aligned
from dreamtune.checks import Check, at, failed, verdict
from dreamtune.evaluate import soft_canaries
from dreamtune.model import logits
from dreamtune.model.loading import attach_lora, load
from dreamtune.model.logits import apply_head
from dreamtune.objective import loss
from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.packing import Batch, collate
from dreamtune.shards import read_meta, read_split
from dreamtune.train.documents import make_beginning
from dreamtune.train.windows import Share, TrainingWindows
from tiny import END, IDS, MASK, make_model, plan, settings


def window(shards: Path, step: int = 2, tokens: int = 40, **changes: Any) -> tuple[tuple[Batch, ...], dict[int, Any]]:
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), settings(**changes))
    return windows.window(step, Share(), plan(tokens)).batches, windows.stored(step)


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
        "documents_apart",
        "loss_finite",
        "starts_from_base",
    }
    for check in checks:
        assert set(check) == {"name", "hard", "passed", "value", "expected", "fault"}


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_counts": "exact", "complementary": True},
        {"mask_counts": "exact", "complementary": True, "pairs": "mirror", "rate_density": [1.0, 3.0]},
        {"complementary": True, "pairs": "mirror", "tail_masks": "together"},
        {"mask_counts": "exact", "mask_block": 4, "rate_draws": "per_document"},
        {"rate_range": [0.3, 0.8], "rate_draws": "independent", "cut_share": 0.5},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_every_way_to_mask_passes(model: PeftModel, shards: Path, changes: dict[str, Any]) -> None:
    for tokens in (40, 1000):  # pairs stand apart, and in one micro-batch
        for step in range(1, 7):
            batches, stored = window(shards, step, tokens, **changes)
            checks = [*canaries.check_window(model, batches, stored, IDS), canaries.starts_from_base(model, batches)]
            assert failing([check for check in checks if check["hard"]]) == set()


def test_copy_fails_by_what_is_seen(model: PeftModel, shards: Path) -> None:
    batches, stored = window(shards, objective="copy")
    checks = canaries.check_window(model, batches, stored, IDS)
    assert failing(checks) >= {"targets_hidden", "loss_only_on_response", "targets_do_not_matter"}
    assert not verdict(checks)["passed"]
    assert "targets_hidden" in failed(checks)[0]


@pytest.mark.parametrize("module", [canaries, alignment, checks, soft_canaries])
def test_no_canary_knows_the_objective(module: ModuleType) -> None:
    """Neither as a field nor as a text; that they see it all the same is shown in test_planted_faults.py."""
    assert module.__file__
    nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert "objective" not in names | texts
    assert not texts & {"elbo", "cart", "uniform", "copy"}


def test_one_visible_target_is_found(shards: Path) -> None:
    batches, _ = window(shards)
    batch = batches[-1]
    batch.input_ids[batch.positions[0]] = batch.targets[0]
    assert canaries.targets_hidden(batches, IDS["mask_id"])["value"] == 1


@pytest.mark.parametrize("column", [0, 1], ids=["position 0", "prompt"])
def test_loss_outside_the_response_is_found(shards: Path, column: int) -> None:
    batches, stored = window(shards, tokens=1000, global_batch=8)
    batch = batches[0]
    place = torch.tensor([batch.starts[3] + column])
    tampered = replace(batch, positions=torch.cat([batch.positions, place]))
    assert canaries.loss_only_on_response([batch], stored, END)["passed"]
    assert canaries.loss_only_on_response([tampered], stored, END)["value"] == 1


def test_documents_that_see_each_other_are_found(model: PeftModel, shards: Path) -> None:
    """As if the boundaries had been forgotten: the whole micro-batch is one document."""
    batches, _ = window(shards, tokens=1000)
    assert canaries.documents_apart(model, batches, IDS)["passed"]
    open_batch = replace(batches[0], boundaries=torch.tensor([0, len(batches[0].input_ids)], dtype=torch.int32))
    assert canaries.documents_apart(model, [open_batch], IDS)["value"] > 0
    alone, _ = window(shards, tokens=1)
    assert canaries.documents_apart(model, alone, IDS)["passed"]  # nothing shares a pass


def test_end_tokens_after_a_cut_answer_are_found(shards: Path) -> None:
    """The row says that the answer is complete when the document is made, and that it is cut when it is judged."""
    batches, stored = window(shards, max_tail=20, seed=3)
    assert any(row.document.tail_tokens for batch in batches for row in batch.noised)
    cut = {example: row | {"complete": False} for example, row in stored.items()}
    assert canaries.loss_only_on_response(batches, stored, END)["passed"]
    assert not canaries.loss_only_on_response(batches, cut, END)["passed"]


def test_padding_tokens_may_stand_in_a_tail_and_nowhere_else(shards: Path) -> None:
    batches, stored = window(shards, max_tail=20, seed=3, padding_tokens=[7, 8])
    assert canaries.loss_only_on_response(batches, stored, END, [7, 8])["passed"]
    assert not canaries.loss_only_on_response(batches, stored, END, [7])["passed"]
    cut = {example: row | {"complete": False} for example, row in stored.items()}
    assert not canaries.loss_only_on_response(batches, cut, END, [7, 8])["passed"]


def test_rows_of_which_only_the_beginning_is_shown_pass(shards: Path) -> None:
    batches, stored = window(shards, cut_share=0.9)
    assert any(row.document.cut for batch in batches for row in batch.noised)
    assert canaries.loss_only_on_response(batches, stored, END)["passed"]


def test_an_end_token_behind_such_a_beginning_fails(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(row: dict[str, Any], response_tokens: int) -> Document:
        document = make_beginning(row, response_tokens)
        return replace(document, tokens=np.append(document.tokens, END))

    monkeypatch.setattr("dreamtune.train.windows.make_beginning", ended)
    batches, stored = window(shards, cut_share=0.9)
    check = canaries.loss_only_on_response(batches, stored, END)
    assert check["passed"] is False and check["value"] > 0


def test_a_causal_mask_is_found(tmp_path: Path, shards: Path) -> None:
    model = load(make_model(tmp_path / "base"))
    model.config.is_causal = True
    batches, _ = window(shards)
    check = canaries.attends_both_ways(model, batches, IDS)
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


def epoch(shards: Path, tokens: int = 40, **changes: Any) -> Iterator[tuple[Batch, ...]]:
    windows = TrainingWindows(read_split(shards, "train"), read_meta(shards), settings(**changes))
    return (windows.window(step, Share(), plan(tokens)).batches for step in range(1, windows.per_epoch + 1))


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_base_that_knows_nothing_is_no_evidence_of_a_shift(tmp_path: Path, shards: Path, scale: float) -> None:
    """Random weights prefer no token, however sure they are of what they say."""
    for seed in range(6):
        base = load(make_model(tmp_path / f"base-{seed}", seed=seed))
        for parameter in base.parameters():
            parameter.data *= scale if parameter.ndim > 1 else 1.0
        check = rows_aligned(base, epoch(shards, seed=seed))
        assert check["passed"] is None and check["low"] < 0 < check["high"], check
    assert verdict([check])["passed"] and failed([check]) == []


def test_a_shift_is_not_judged_on_a_few_documents(model: PeftModel, shards: Path) -> None:
    check = rows_aligned(model, epoch(shards, rows=7))
    assert check["passed"] is None and check["value"] is None and "not enough data" in check["note"]


@pytest.mark.parametrize("tokens", [1, 100])
@pytest.mark.parametrize("complementary", [False, True])
def test_the_rows_compared_are_those_of_one_document(shards: Path, tokens: int, complementary: bool) -> None:
    """Neither neighbour of a place that is looked at may lie in another document, or in the tail."""
    seen = 0
    for batch in (b for batches in epoch(shards, tokens, complementary=complementary) for b in batches):
        row, column = (numbers[_places(batch)] for numbers in batch.places())
        for number, place in zip(row, column, strict=True):
            document = batch.noised[number].document
            assert 2 <= place < min(len(document.tokens) - document.tail_tokens, len(document.tokens) - 1)
        seen += len(row)
    assert seen > 50
    whole = corrupt(Document(0, np.arange(9), prompt_tokens=1, tail_tokens=0), Noise("elbo", 1.0, 0, 0, MASK))
    assert _places(collate([whole])).tolist() == [1, 2, 3, 4, 5, 6]  # columns 2 to 7 of the hidden 1 to 8


def test_only_so_many_rows_pass_the_head_at_once(
    model: PeftModel, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window's logits over a vocabulary of 152,064 would not fit beside the model; the results stay the same."""

    def checks_of() -> list[Check]:
        batches, stored = window(shards, tokens=1000, global_batch=12)
        return [*canaries.check_window(model, batches, stored, IDS), rows_aligned(model, epoch(shards, tokens=80))]

    whole, most = checks_of(), 0

    def head(m: Any, rows: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, len(rows))
        return apply_head(m, rows)

    for module in (canaries, logits, alignment):
        monkeypatch.setattr(module, "apply_head", head)
    for module in (canaries, loss, alignment):
        monkeypatch.setattr(module, "HEAD_ROWS", 5)
    for chunked, one in zip(checks_of(), whole, strict=True):
        assert (chunked["name"], chunked["passed"]) == (one["name"], one["passed"])
        assert chunked["value"] == pytest.approx(one["value"], rel=1e-4, abs=1e-6)
    assert most == 5


def test_canaries_leave_the_model_as_it_was(model: PeftModel, shards: Path) -> None:
    batches, stored = window(shards)
    for training in (True, False):
        model.train(training)
        canaries.check_window(model, batches, stored, IDS)
        canaries.starts_from_base(model, batches)
        rows_aligned(model, [batches])
        assert model.training is training and all(p.grad is None for p in model.parameters())


def test_verdict_needs_only_the_hard_checks() -> None:
    soft = {"name": "s", "hard": False, "passed": False, "value": 1, "expected": "0"}
    assert verdict([soft])["passed"] and not verdict([soft | {"hard": True}])["passed"]
    assert at("first_window", [soft])[0]["name"] == "s_first_window"
