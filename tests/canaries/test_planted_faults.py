"""Every fault that would make a result worthless, planted where the bug would sit, and the check that catches it.

Each test breaks one line of the library, runs the stage as the workflow does on the embedded model, and shows which
named check ends the run. `test_without_a_fault_...` are the same runs unbroken. docs/canaries.md lists all canaries.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from dreamtune.data import tables
from dreamtune.errors import UserError
from dreamtune.model import loading as model
from dreamtune.model import logits
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.loss import supervised_rows
from dreamtune.objective.packing import Batch, collate
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.train import micro_batches
from dreamtune.train import train as training
from dreamtune.train.windows import make_document
from planted import Pairs, Plant, before, make_shards, train

pytest_plugins = "planted"  # its fixture


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def checks(run: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads((run / "gate.json").read_text())["checks"]}


def caught(tmp_path: Path, shards: Path, **changes: Any) -> set[str]:
    """Run smoke and full as the workflow does; return the hard checks by which smoke's gate stopped full."""
    smoke = train(tmp_path / "smoke", shards, **changes)
    with pytest.raises(UserError, match="the smoke run failed its gate") as stopped:
        train(tmp_path / "full", shards, gate=smoke, **changes)
    failed = {name for name, check in checks(smoke).items() if check["hard"] and check["passed"] is False}
    assert all(name in str(stopped.value) for name in failed)
    return {name.removesuffix("_first_window").removesuffix("_last_window") for name in failed}


@pytest.fixture(scope="module")
def honest(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return smoke and, behind its gate, a full run of 12 steps, both without a fault."""
    folder = tmp_path_factory.mktemp("honest")
    smoke = train(folder / "smoke", shards)
    return smoke, train(folder / "full", shards, gate=smoke, rows=96, max_steps=None)


def test_without_a_fault_training_passes_every_check(honest: tuple[Path, Path]) -> None:
    for run in honest:
        assert {name: check["value"] for name, check in checks(run).items() if check["passed"] is not True} == {}
        assert checks(run)["rows_aligned_first_window"]["low"] > 0.3  # nats, and 3 standard errors below the estimate


# What the loss is shown.


def test_unmasked_targets(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """`labels = input_ids` and nothing masked: the loss falls by copying."""

    def faulty(document: Document, noise: Noise) -> Noised:
        return replace(corrupt(document, noise), input_ids=document.tokens)

    plant(corrupt, faulty)
    assert caught(tmp_path, shards) == {"targets_hidden", "targets_do_not_matter"}


def test_the_notebooks_objective_under_another_name(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """The canaries see what the objective does, not what it is called: both runs fail alike."""
    by_name = caught(tmp_path / "copy", shards, objective="copy")

    def faulty(document: Document, noise: Noise) -> Noised:
        return replace(corrupt(document, replace(noise, objective="copy")), noise=noise)

    plant(corrupt, faulty)
    assert caught(tmp_path / "elbo", shards, objective="elbo") == by_name
    assert by_name == {"targets_hidden", "targets_do_not_matter", "loss_only_on_response"}


def test_prompt_in_the_loss(plant: Plant, shards: Path, tmp_path: Path) -> None:
    def faulty(document: Document, noise: Noise) -> Noised:
        return replace(corrupt(replace(document, prompt_tokens=1), noise), document=document)

    plant(corrupt, faulty)
    assert caught(tmp_path, shards) == {"loss_only_on_response"}


def test_end_tokens_after_a_cut_answer(plant: Plant, tmp_path: Path) -> None:
    """They teach the model to stop in the middle of a sentence."""
    shards = make_shards(tmp_path / "shards", too_long="truncate", max_tokens=40)
    assert checks(train(tmp_path / "honest", shards))["loss_only_on_response_first_window"]["passed"]

    def faulty(row: dict[str, Any], tail_tokens: int, end_id: int, max_tokens: int) -> Document:
        return make_document(row | {"complete": True}, tail_tokens, end_id, max_tokens + tail_tokens)

    plant(make_document, faulty)
    assert caught(tmp_path, shards) == {"loss_only_on_response"}


def test_an_end_token_in_the_place_of_the_cut(plant: Plant, tmp_path: Path) -> None:
    """The same fault in the shards: every row ends in an end token, whether its answer is complete or not."""
    original = tables._segments

    def faulty(rows: Any, outcome: Any, i: int, end: list[int], from_start: bool) -> tuple[list[int], ...]:
        *parts, last = original(rows, outcome, i, end, from_start)
        tokens = [token for part in (*parts, last) for token in part]
        return (tokens if outcome.complete[i] else tokens[:-1] + end,)

    plant(original, faulty)
    shards = make_shards(tmp_path / "shards", too_long="truncate", max_tokens=40)
    assert caught(tmp_path, shards) == {"loss_only_on_response"}


# What the model sees, and where its predictions are read.


@pytest.mark.parametrize("trap", [False, True], ids=["config", "config, but not the layers"])
def test_a_causal_mask(plant: Plant, shards: Path, tmp_path: Path, trap: bool) -> None:
    """Also where only the layers are told otherwise: under a padding mask the config decides, without a word."""
    original = model.load

    def faulty(config: ModelConfig) -> Any:
        loaded = original(config)
        loaded.config.is_causal = True
        for layer in loaded.model.layers if trap else ():
            layer.self_attn.is_causal = False
        return loaded

    plant(original, faulty)
    assert "attends_both_ways" in caught(tmp_path, shards)


def test_documents_of_a_micro_batch_see_each_other(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """The boundaries are lost on the way to the attention, and the row is read as one long document."""

    def faulty(rows: Any, device: Any = "cpu") -> Batch:
        batch = collate(rows, device)
        return replace(batch, boundaries=batch.boundaries[[0, -1]])

    plant(collate, faulty)
    assert caught(tmp_path, shards) == {"documents_apart"}


@pytest.mark.parametrize("reads", [before(0), before(1)], ids=["even documents", "odd documents"])
def test_a_document_that_sees_its_neighbour(
    leak: Callable[..., None], shards: Path, tmp_path: Path, reads: Pairs
) -> None:
    leak(reads)
    assert caught(tmp_path, shards) == {"documents_apart"}


def test_a_document_that_sees_its_complement(leak: Callable[..., None], shards: Path, tmp_path: Path) -> None:
    """What one half of a pair hides, the other shows, so each target of every second document is visible."""
    leak(before(1))
    found = caught(tmp_path, shards, complementary=True, micro_batch_tokens=2048)  # a pair stands in one micro-batch
    assert found == {"documents_apart", "targets_do_not_matter"}


@pytest.mark.parametrize("step", [-1, 1], ids=["early", "late"])
def test_boundaries_one_token_early(plant: Plant, shards: Path, tmp_path: Path, step: int) -> None:
    """Or late; with two documents in a micro-batch there is one inner boundary."""

    def faulty(rows: Any, device: Any = "cpu") -> Batch:
        batch = collate(rows, device)
        boundaries = batch.boundaries.clone()
        boundaries[1:-1] += step
        return replace(batch, boundaries=boundaries)

    plant(collate, faulty)
    assert caught(tmp_path, shards, global_batch=2) == {"documents_apart"}


def moved(hidden: torch.Tensor, step: int) -> torch.Tensor:
    """Return rows [B, T, D] of which row i is row i + `step`, or the last one there is."""
    places = (torch.arange(hidden.shape[1]) + step).clamp(0, hidden.shape[1] - 1)
    return hidden[:, places]


@pytest.mark.parametrize("step", [1, -1, 2, -2], ids=["forgotten", "applied twice", "read at i + 1", "by two, back"])
def test_a_shift_that_is_off(plant: Plant, shards: Path, tmp_path: Path, step: int) -> None:
    """A shifted family read as an unshifted one, and the reverse: the loss is finite, falls, and means nothing.

    Two rows on, a document's last token is predicted by its neighbour, which is another fault.
    """
    original = logits.hidden_states
    plant(original, lambda *given, **packing: moved(original(*given, **packing), step))
    assert caught(tmp_path, shards) == {"rows_aligned"} | ({"documents_apart"} if step == 2 else set())


@pytest.mark.parametrize("step", [1, 2])
def test_a_loss_that_takes_another_row(plant: Plant, shards: Path, tmp_path: Path, step: int) -> None:
    plant(supervised_rows, lambda m, batch: supervised_rows(m, replace(batch, positions=batch.positions - step)))
    assert caught(tmp_path, shards) == {"rows_aligned"}


@pytest.mark.parametrize("step", [1, -1, 2, -2])
def test_targets_that_are_off(plant: Plant, shards: Path, tmp_path: Path, step: int) -> None:
    def faulty(rows: Any, device: Any = "cpu") -> Batch:
        moved = [np.roll(row.document.tokens, step)[row.supervised] for row in rows]
        return replace(collate(rows, device), targets=torch.from_numpy(np.concatenate(moved)))

    plant(collate, faulty)
    assert caught(tmp_path, shards) == {"rows_aligned"}


# What training changes.


def test_a_dead_module(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """It is frozen by mistake; tests/canaries/test_adapter.py has other ways to die."""
    original = model.attach_lora

    def faulty(base: Any, lora: LoraSettings, seed: int) -> PeftModel:
        tuned = original(base, lora, seed)
        for name, weight in tuned.named_parameters():
            weight.requires_grad_("lora_" in name and "layers.1.self_attn.v_proj" not in name)
        return tuned

    plant(original, faulty)
    assert caught(tmp_path, shards) == {"all_modules_learn"}
    check = checks(tmp_path / "smoke")["all_modules_learn"]
    assert check["note"] == "dead: model.layers.1.self_attn.v_proj"


def test_an_exploding_gradient(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """One window's loss is multiplied; a warning names the module that felt it most."""
    original, calls = micro_batches.loss_sums, 0

    def faulty(m: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += m.training
        loss, nll = original(m, batch)
        return loss * (1e4 if m.training and calls > 5 else 1), nll

    plant(original, faulty)
    check = checks(train(tmp_path / "run", shards, max_steps=6, micro_batch_tokens=2048))["gradients_steady"]
    assert check["passed"] is False and not check["hard"] and check["note"].startswith("largest in model.layers.")


# Where training starts.


def test_smokes_adapter_leaks_into_full(plant: Plant, honest: tuple[Path, Path], shards: Path, tmp_path: Path) -> None:
    smoke, _ = honest

    def faulty(base: Any, lora: LoraSettings, seed: int) -> PeftModel:
        return PeftModel.from_pretrained(base, str(smoke / "adapter"), is_trainable=True)

    plant(model.attach_lora, faulty)
    with pytest.raises(UserError, match=r"own canaries failed: starts_from_base_first_window \(\d"):
        train(tmp_path / "full", shards, gate=smoke)


def test_smokes_checkpoint_in_fulls_folder(honest: tuple[Path, Path], shards: Path, tmp_path: Path) -> None:
    """The other door by which smoke's weights could enter: what a run resumes from must be its own."""
    smoke, _ = honest
    with pytest.raises(UserError, match="belongs to other settings or data"):
        train(tmp_path / "full", shards, gate=smoke, work=smoke / "work", max_steps=4)


class Killed(BaseException):
    """Stands for a signal."""


def test_a_resumed_full_run_is_not_taken_for_a_leak(
    plant: Plant, honest: tuple[Path, Path], shards: Path, tmp_path: Path
) -> None:
    """Its adapter is not the base any more when it goes on, and that is no fault."""
    smoke, _ = honest
    options: dict[str, Any] = {"gate": smoke, "work": tmp_path / "work", "max_steps": 4, "checkpoint_steps": 1}
    with pytest.MonkeyPatch.context() as patch:

        def die(step: int, loss: float, grad_norm: float) -> None:
            if step == 3:
                raise Killed

        patch.setattr(training, "stop_unless_finite", die)
        with pytest.raises(Killed):
            train(tmp_path / "killed", shards, **options)
    resumed = train(tmp_path / "resumed", shards, **options)
    assert json.loads((resumed / "training.json").read_text())["resumed_from"] == [2]
    assert checks(resumed)["starts_from_base_first_window"]["value"] == 0.0
    assert json.loads((resumed / "gate.json").read_text())["passed"]


# What the loss says.


def scaled_head(factor: float) -> Callable[[ModelConfig], Any]:
    original = model.load

    def faulty(config: ModelConfig) -> Any:
        loaded = original(config)
        loaded.lm_head.weight.data.mul_(factor)
        return loaded

    return faulty


def test_damaged_weights(plant: Plant, shards: Path, tmp_path: Path) -> None:
    """A loss that is not finite stops the run itself; one worse than a uniform guess warns."""
    original = model.load
    plant(original, scaled_head(30.0))
    check = checks(train(tmp_path / "worse", shards))["loss_plausible_first_window"]
    assert check["passed"] is False and not check["hard"] and check["value"] > 10
    plant(model.load, scaled_head(float("nan")))
    with pytest.raises(UserError, match=r"the weight lm_head\.weight is not finite"):
        train(tmp_path / "nan", shards)


def test_copying_that_was_learned(shards: Path, tmp_path: Path) -> None:
    """The notebook's triumph: at the last window the loss is a few thousandths of a nat."""
    copied = train(tmp_path / "run", shards, objective="copy", epochs=4, max_steps=None, max_tail=0, learning_rate=1e-2)
    first, last = (checks(copied)[f"loss_plausible_{moment}"] for moment in ("first_window", "last_window"))
    assert first["passed"] and last["passed"] is False and last["value"] < 0.01
