"""Leak canaries: does the loss measure prediction, or can the model see the tokens it has to predict?

A canary looks at the arrays that the loss consumes and at the model's scores of them, never at the objective's name.
The notebook's objective fails because its targets stand in its own input. docs/canaries.md describes every canary.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from dreamtune.checks import Check, check
from dreamtune.model.logits import apply_head
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.diffusion import Noised, corrupt
from dreamtune.objective.loss import HEAD_ROWS, token_losses
from dreamtune.objective.packing import Batch, collate, hidden_rows

FAULTS = {
    "targets_hidden": "the model was shown the tokens it had to predict",
    "loss_only_on_response": "prompt or the end of a cut answer was trained on",
    "targets_do_not_matter": "predictions changed with the very token they predict",
    "attends_both_ways": "the model did not see the tokens that follow a mask",
    "documents_apart": "documents that share a micro-batch saw each other",
    "loss_finite": "the loss was not finite",
    "loss_plausible": "the loss was implausible: near zero, or worse than a uniform guess",
    "starts_from_base": "the run did not start from the base model",
}


def check_window(
    model: nn.Module, batches: Sequence[Batch], stored: dict[int, Any], ids: dict[str, int]
) -> list[Check]:
    """Return the checks of every canary that needs only one window, made as training makes it.

    Args:
        model: base with adapter; it is put into evaluation mode and back.
        batches: the micro-batches of one optimiser step.
        stored: example_id -> row of the shards, for each document of the window.
        ids: special tokens and vocabulary size, as in shards.json.
    """
    with evaluation_mode(model):
        return [
            targets_hidden(batches, ids["mask_id"]),
            loss_only_on_response(batches, stored, ids["end_id"]),
            targets_do_not_matter(model, batches, ids),
            attends_both_ways(model, batches, ids),
            documents_apart(model, batches, ids),
            *loss_is_sane(model, batches, ids["vocab_size"]),
        ]


def can_be_judged(window: Sequence[Noised]) -> bool:
    """Return whether the canaries can judge a window: some supervised position has a token after it."""
    return any(noised.supervised[:-1].any() for noised in window)


def targets_hidden(batches: Sequence[Batch], mask_id: int) -> Check:
    """Return the check that every supervised position holds the mask token in the input."""
    held = torch.cat([batch.input_ids[batch.positions] for batch in batches])  # [N]
    visible = int((held != mask_id).sum())
    return _check("targets_hidden", visible == 0 and len(held) > 0, visible, f"0 of {len(held)} targets in the input")


def loss_only_on_response(batches: Sequence[Batch], stored: dict[int, Any], end_id: int) -> Check:
    """Return the check that neither the prompt nor a token after a cut answer carries loss.

    Which positions may be supervised is worked out from the shards, independently of the objective: the stored response
    and, after a complete one, end tokens. An end token where an answer was cut would claim that the answer is complete,
    so it may not be supervised either.
    """
    wrong = 0
    for batch in batches:
        documents, columns = batch.places()
        for number, noised in enumerate(batch.noised):
            source, tokens = stored[noised.document.example_id], noised.document.tokens
            end = len(source["input_ids"])
            allowed = np.zeros(len(batch.input_ids), bool)  # [T], more than any document has
            allowed[max(source["prompt_tokens"], 1) : end] = True
            if source["complete"]:
                allowed[end : len(tokens)] = tokens[end:] == end_id
            elif source["input_ids"][-1] == end_id:
                allowed[end - 1] = False
            wrong += int((~allowed[columns[documents == number]]).sum())
    total = sum(len(batch.positions) for batch in batches)
    return _check("loss_only_on_response", wrong == 0, wrong, f"0 of {total} targets in a prompt or after a cut answer")


def targets_do_not_matter(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that predictions do not depend on their own targets.

    It replaces one supervised token of each document *before* corruption. The logits that score it must keep every bit.
    """
    changed = tested = 0
    for batch in batches:
        altered, places = [], []
        for start, noised in zip(batch.starts, batch.noised, strict=True):
            supervised = np.flatnonzero(noised.supervised)
            altered.append(noised)
            if len(supervised):
                place = int(supervised[len(supervised) // 2])
                tokens = noised.document.tokens.copy()
                tokens[place] = _other_token(int(tokens[place]), ids)
                altered[-1] = corrupt(replace(noised.document, tokens=tokens), noised.noise)
                places.append(start + place)
        if places:
            positions = torch.tensor(places, device=batch.input_ids.device)
            after = collate(altered, batch.input_ids.device)
            changed += int((_changed_logits(model, batch, after, positions) > 0).sum())
            tested += len(places)
    return _check(
        "targets_do_not_matter", changed == 0 and tested > 0, changed, f"0 of {tested} scores move with the target"
    )


def attends_both_ways(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that a prediction depends on the tokens after it.

    It replaces all tokens after a document's first supervised position. The logits that score this position must
    change. Under a causal mask, which some combinations of transformers' flags switch on silently, they would not.
    """
    blind = tested = 0
    for batch in batches:
        altered, places = batch.input_ids.clone(), []
        for start, noised in zip(batch.starts, batch.noised, strict=True):
            supervised = np.flatnonzero(noised.supervised[:-1])
            if len(supervised):
                place, end = int(supervised[0]), len(noised.input_ids)
                later = [_other_token(int(token), ids) for token in noised.input_ids[place + 1 :]]
                altered[start + place + 1 : start + end] = torch.tensor(later, device=altered.device)
                places.append(start + place)
        if places:
            positions = torch.tensor(places, device=altered.device)
            blind += int((_changed_logits(model, batch, replace(batch, input_ids=altered), positions) == 0).sum())
            tested += len(places)
    return _check("attends_both_ways", blind == 0 and tested > 0, blind, f"0 of {tested} scores blind to later tokens")


def documents_apart(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that documents of one micro-batch do not see each other.

    It replaces every second document of a micro-batch. The logits that score the others must keep every bit.
    """
    changed = tested = 0
    for batch in batches:
        altered, places = batch.input_ids.clone(), []
        for number, (start, noised) in enumerate(zip(batch.starts, batch.noised, strict=True)):
            supervised = np.flatnonzero(noised.supervised)
            if number % 2:
                others = [_other_token(int(token), ids) for token in noised.input_ids]
                altered[start : start + len(others)] = torch.tensor(others, device=altered.device)
            elif len(supervised) and len(batch.noised) > 1:
                places.append(start + int(supervised[len(supervised) // 2]))
        if places:
            positions = torch.tensor(places, device=altered.device)
            changed += int((_changed_logits(model, batch, replace(batch, input_ids=altered), positions) > 0).sum())
            tested += len(places)
    return _check(
        "documents_apart", changed == 0, changed, f"0 of {tested} scores move with another document of the micro-batch"
    )


def loss_is_sane(model: nn.Module, batches: Sequence[Batch], vocab_size: int) -> list[Check]:
    """Return two checks of the mean cross entropy: it is finite (hard), and between 0 and a uniform guess (soft)."""
    losses = torch.cat([token_losses(model, batch) for batch in batches if len(batch.positions)])  # [N]
    mean, guess = losses.mean().item(), math.log(vocab_size)
    finite = bool(torch.isfinite(losses).all())
    sane = finite and 0.01 < mean < guess + 1
    return [
        _check("loss_finite", finite, mean if finite else None, "a finite cross entropy for every target"),
        _check(
            "loss_plausible", sane, mean if finite else None, f"between 0.01 and ln({vocab_size}) + 1 nats", hard=False
        ),
    ]


def starts_from_base(model: PeftModel, batches: Sequence[Batch]) -> Check:
    """Return the check that the adapter adds nothing before the first step: its hidden states are the base's bits."""
    worst = 0.0
    with evaluation_mode(model):
        for batch in batches:
            adapted = hidden_rows(model, batch)  # [T, D]
            with model.disable_adapter():
                base = hidden_rows(model, batch)
            worst = max(worst, float((adapted - base).abs().max()))
    return base_check(worst)


def base_check(difference: float) -> Check:
    """Return the check that a model equals the base.

    Args:
        difference: the largest absolute difference that was found, in hidden states or in weights.
    """
    return _check("starts_from_base", difference == 0.0, difference, "differs from the base by 0")


def _changed_logits(model: nn.Module, batch: Batch, other: Batch, positions: Tensor) -> Tensor:
    """Return for each of the `positions` [n] how many of the V logits that score it differ between two batches: [n].

    The batches must be equally long: equal inputs of equal shape give equal bits, also on a GPU, since no kernel of
    the forward pass adds up with atomics.
    """
    rows = [hidden_rows(model, b)[positions] for b in (batch, other)]
    chunks = zip(*(hidden.split(HEAD_ROWS) for hidden in rows), strict=True)
    return torch.cat([(apply_head(model, a) != apply_head(model, b)).sum(-1) for a, b in chunks])


def _other_token(token: int, ids: dict[str, int]) -> int:
    """Return a token that is neither `token` nor special."""
    special = {ids["mask_id"], ids["end_id"], ids["pad_id"], ids["beginning_id"]}
    return next(
        other for step in range(1, len(special) + 2) if (other := (token + step) % ids["vocab_size"]) not in special
    )


def _check(name: str, passed: bool, value: float | None, expected: str, hard: bool = True) -> Check:
    return check(name, passed, value, expected, FAULTS[name], hard=hard)
