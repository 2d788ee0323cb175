"""Every fault that would make a result worthless, planted where the bug would sit, and the check that catches it.

Each test breaks one line of the library, runs the stage as the workflow does on the embedded model, and shows which
named check ends the run; test_planted_runs.py goes on. docs/canaries.md lists all canaries.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamtune.data import tables
from dreamtune.errors import UserError
from dreamtune.model import loading as model
from dreamtune.model import logits
from dreamtune.objective.diffusion import Document, Noise, Noised, corrupt
from dreamtune.objective.loss import supervised_rows
from dreamtune.objective.packing import Batch, collate
from dreamtune.settings.model import ModelConfig
from dreamtune.train.documents import make_document
from planted import Pairs, Plant, before, caught, checks, make_shards, train

pytest_plugins = "planted"  # its fixture


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


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
    def faulty(model: Any, batch: Batch) -> Any:
        return supervised_rows(model, replace(batch, positions=(batch.positions - step).clamp_min(1)))

    plant(supervised_rows, faulty)
    assert caught(tmp_path, shards) == {"rows_aligned"}


@pytest.mark.parametrize("step", [1, -1, 2, -2])
def test_targets_that_are_off(plant: Plant, shards: Path, tmp_path: Path, step: int) -> None:
    def faulty(rows: Any, device: Any = "cpu") -> Batch:
        moved = [np.roll(row.document.tokens, step)[row.supervised] for row in rows]
        return replace(collate(rows, device), targets=torch.from_numpy(np.concatenate(moved)))

    plant(collate, faulty)
    assert caught(tmp_path, shards) == {"rows_aligned"}


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
