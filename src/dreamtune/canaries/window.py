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
from torch import nn

from dreamtune.canaries.backwards import forgetful_scores, later_leaks
from dreamtune.canaries.leaks import Count, Watched, neighbour_leaks, other_tokens, rows_at, target_leaks, watch
from dreamtune.canaries.short import shortened
from dreamtune.canaries.turns import later_turns_hidden
from dreamtune.checks import Check, check
from dreamtune.model.logits import apply_head, row_losses
from dreamtune.model.modes import evaluation_mode
from dreamtune.objective.diffusion import Noised
from dreamtune.objective.loss import HEAD_ROWS, token_losses
from dreamtune.objective.packing import Batch, hidden_rows

FAULTS = {
    "targets_hidden": "the model was shown the tokens it had to predict",
    "loss_only_on_response": "prompt or the end of a cut answer was trained on",
    "targets_do_not_matter": "predictions changed with the very token they predict",
    "attends_both_ways": "the model did not see the tokens that follow a mask",
    "later_tokens_hidden": "a causal model saw tokens that come after the one it had to predict",
    "attends_back": "a causal model did not see the tokens before the last one",
    "documents_apart": "documents that share a micro-batch saw each other",
    "loss_finite": "the loss was not finite",
    "loss_plausible": "the loss was implausible: near zero, or worse than a uniform guess",
    "starts_from_base": "the run did not start from the base model",
}


def check_window(
    model: nn.Module,
    batches: Sequence[Batch],
    stored: dict[int, Any],
    ids: dict[str, int],
    others: Sequence[Batch] = (),
    padding: Sequence[int] = (),
    causal: bool = False,
) -> list[Check]:
    """Return the checks of every canary that needs only one window, made as training makes it.

    A micro-batch of K short documents takes 3 forward passes for all canaries of a window, one more where both halves
    of a complementary pair stand in it, and the 0 (K = 1) to 6 (K = 20) passes of `leaks.separating_sets`. One of long
    documents takes 4 (5 with pairs), and these sets are tried on the same documents cut short (`short.shortened`).

    Args:
        model: base with adapter; it is put into evaluation mode and back.
        batches: the micro-batches of one optimiser step.
        stored: example_id -> row of the shards, for each document of the window.
        ids: special tokens and vocabulary size, as in shards.json.
        others: micro-batches of other steps whose documents must not see each other either.
        padding: tokens that may stand in a tail in place of the end token.
        causal: whether the settings ask for a causal model; the canaries of attention then turn round (`backwards`).
    """
    targets, later, blind, neighbours, losses = Count(), Count(), Count(), Count(), []
    with evaluation_mode(model):
        for batch in batches:
            watched = watch(model, batch)
            if causal:
                own, behind = later_leaks(model, batch, watched, ids)
                targets, later = targets + own, later + behind
            else:
                targets += target_leaks(model, batch, watched, ids)
            losses.append(watched_losses(model, batch, watched))
            if (short := shortened(batch)) is not batch:
                neighbours += neighbour_leaks(model, batch, watched, ids, thorough=False)
                watched = watch(model, short)
            blind += (forgetful_scores if causal else blind_scores)(model, short, watched, ids)
            neighbours += neighbour_leaks(model, short, watched, ids)
        for short in map(shortened, others):
            neighbours += neighbour_leaks(model, short, watch(model, short), ids)
        turns = [later_turns_hidden(batches, ids, padding)] if "turn_end_id" in ids else []
        attention = [_later_check(later), _back_check(blind)] if causal else [_attention_check(blind)]
        return [
            *([] if causal else [targets_hidden(batches, ids["mask_id"])]),  # a causal model is shown what came before
            loss_only_on_response(batches, stored, ids["end_id"], padding),
            *turns,
            _targets_check(targets),
            *attention,
            _documents_check(neighbours),
            *loss_checks(torch.cat(losses), ids["vocab_size"]),
        ]


def can_be_judged(window: Sequence[Noised]) -> bool:
    """Return whether the canaries can judge a window: some supervised position has a token after it."""
    return any(noised.supervised[:-1].any() for noised in window)


def targets_hidden(batches: Sequence[Batch], mask_id: int) -> Check:
    """Return the check that every supervised position holds the mask token in the input."""
    held = torch.cat([batch.input_ids[batch.positions] for batch in batches])  # [N]
    visible = int((held != mask_id).sum())
    return _check("targets_hidden", visible == 0 and len(held) > 0, visible, f"0 of {len(held)} targets in the input")


def loss_only_on_response(
    batches: Sequence[Batch], stored: dict[int, Any], end_id: int, padding: Sequence[int] = ()
) -> Check:
    """Return the check that neither the prompt nor a token after a cut answer carries loss.

    Which positions may be supervised is worked out from the shards, independently of the objective: the stored response
    and, after a complete one, end tokens or `padding`. An end token where an answer was cut, in the shards or for this
    step, would claim that the answer is complete, so it may not be supervised either.
    """
    wrong = 0
    for batch in batches:
        documents, columns = batch.places()
        for number, noised in enumerate(batch.noised):
            source, tokens = stored[noised.document.example_id], noised.document.tokens
            end, kept = len(source["input_ids"]), min(len(source["input_ids"]), len(tokens))
            allowed = np.zeros(len(batch.input_ids), bool)  # [T], more than any document has
            allowed[:kept] = tokens[:kept] == np.asarray(source["input_ids"][:kept])
            allowed[: max(source["prompt_tokens"], 1)] = False
            if source["complete"]:
                allowed[end : len(tokens)] = np.isin(tokens[end:], [end_id, *padding])
            elif source["input_ids"][-1] == end_id:
                allowed[end - 1] = False
            wrong += int((~allowed[columns[documents == number]]).sum())
    total = sum(len(batch.positions) for batch in batches)
    return _check("loss_only_on_response", wrong == 0, wrong, f"0 of {total} targets in a prompt or after a cut answer")


def targets_do_not_matter(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that predictions do not depend on their own targets, see `leaks.target_leaks`."""
    return _targets_check(sum((target_leaks(model, b, watch(model, b), ids) for b in batches), Count()))


def documents_apart(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that documents of one micro-batch do not see each other, see `leaks.neighbour_leaks`."""
    return _documents_check(sum((neighbour_leaks(model, b, watch(model, b), ids) for b in batches), Count()))


def attends_both_ways(model: nn.Module, batches: Sequence[Batch], ids: dict[str, int]) -> Check:
    """Return the check that a prediction depends on the tokens after it, see `blind_scores`."""
    return _attention_check(sum((blind_scores(model, b, watch(model, b), ids) for b in batches), Count()))


def blind_scores(model: nn.Module, batch: Batch, watched: Watched, ids: dict[str, int]) -> Count:
    """Count the predictions that do not depend on the tokens after them. One forward pass.

    It replaces all tokens after a document's first supervised position. The logits that score this position must
    change. Under a causal mask, which some combinations of transformers' flags switch on silently, they would not.
    """
    altered, places = batch.input_ids.clone(), []
    for start, noised in zip(batch.starts, batch.noised, strict=True):
        supervised = np.flatnonzero(noised.supervised[:-1])
        if len(supervised):
            place, end = int(supervised[0]), len(noised.input_ids)
            later = other_tokens(noised.input_ids[place + 1 :], ids)
            altered[start + place + 1 : start + end] = torch.from_numpy(later).to(altered.device)
            places.append(start + place)
    if not places:
        return Count()
    positions = torch.tensor(places, device=altered.device)  # [P]
    before = watched.rows[torch.searchsorted(watched.positions, positions)]  # [P, D]
    after = rows_at(model, replace(batch, input_ids=altered), positions)
    chunks = zip(before.split(HEAD_ROWS), after.split(HEAD_ROWS), strict=True)
    blind = sum(int((apply_head(model, a) == apply_head(model, b)).all(dim=-1).sum()) for a, b in chunks)
    return Count(blind, len(places))


def loss_is_sane(model: nn.Module, batches: Sequence[Batch], vocab_size: int) -> list[Check]:
    """Return two checks of the mean cross entropy: it is finite (hard), and between 0 and a uniform guess (soft)."""
    return loss_checks(torch.cat([token_losses(model, batch) for batch in batches if len(batch.positions)]), vocab_size)


def watched_losses(model: nn.Module, batch: Batch, watched: Watched) -> torch.Tensor:
    """Return the cross entropy of each supervised token in nats, [N], from the rows that were watched. No pass."""
    rows = watched.rows[torch.searchsorted(watched.positions, batch.positions)]  # [N, D]
    return row_losses(model, rows, batch.targets, HEAD_ROWS) if len(rows) else rows.new_zeros(0, dtype=torch.float32)


def loss_checks(losses: torch.Tensor, vocab_size: int) -> list[Check]:
    """Return the checks of `loss_is_sane` of these cross entropies, [N]."""
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


def _targets_check(count: Count) -> Check:
    passed, expected = count.moved == 0 < count.tested, f"0 of {count.tested} scores move with the target"
    return _check("targets_do_not_matter", passed, count.moved, expected)


def _attention_check(count: Count) -> Check:
    passed, expected = count.moved == 0 < count.tested, f"0 of {count.tested} scores blind to later tokens"
    return _check("attends_both_ways", passed, count.moved, expected)


def _later_check(count: Count) -> Check:
    passed, expected = count.moved == 0 < count.tested, f"0 of {count.tested} scores move with later tokens"
    return _check("later_tokens_hidden", passed, count.moved, expected)


def _back_check(count: Count) -> Check:
    passed, expected = count.moved == 0 < count.tested, f"0 of {count.tested} scores blind to earlier tokens"
    return _check("attends_back", passed, count.moved, expected)


def _documents_check(count: Count) -> Check:
    expected = f"0 of {count.tested} scores move with another document of the micro-batch"
    return _check("documents_apart", count.moved == 0, count.moved, expected)


def _check(name: str, passed: bool, value: float | None, expected: str, hard: bool = True) -> Check:
    return check(name, passed, value, expected, FAULTS[name], hard=hard)
