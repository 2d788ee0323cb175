"""Hidden states and logits whose row i scores token i, in every model family: the one place that shifts.

Dream's head is shifted: raw row i - 1 scores token i. LLaDA's is not. Callers need not know the family: they use
`token_logits`, or its two halves `hidden_states` and `apply_head` where only some rows have to go through the head.
"""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from dreamtune.model.facts import facts_of


def token_logits(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return logits [B, L, V] whose row i scores token i.

    In a shifted family row 0 repeats raw row 0, as in the official code; it scores nothing that is trained or reported.

    Args:
        model: from `load_model` or `attach_lora`, wrapped or not.
        input_ids: [B, L].
        attention_mask, position_ids: see `hidden_states`.
    """
    return apply_head(model, hidden_states(model, input_ids, attention_mask, position_ids))


def hidden_states(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    tokens: torch.Tensor | None = None,
    **packing: Any,
) -> torch.Tensor:
    """Return the last hidden states after the final norm, [B, L, D]; `apply_head` of row i scores token i.

    Args:
        model: from `load_model` or `attach_lora`, wrapped or not; an active adapter is applied.
        input_ids: [B, L].
        attention_mask: [B, L] with 0 at padding, or boolean [B, 1, L, L] with True where a query sees a key.
        position_ids: [B, L]; counted from 0 if not given.
        tokens: [N], ascending: return only the rows that score these tokens, [1, N, D]; for layers that take `rows`.
        packing: `cu_seq_lens_q` and `max_length_q`, the boundaries of packed documents, and `right_context`; see
            `attention.attend`.
    """
    base = unwrap(model)
    if tokens is not None:
        packing["rows"] = tokens - 1 if facts_of(base.config).shifted else tokens
    hidden = base.model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False, **packing
    ).last_hidden_state
    return hidden if tokens is not None else aligned(base, hidden)


def aligned(base: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return raw hidden rows [B, L, D] moved one position back in a shifted family, so that row i scores token i."""
    if facts_of(base.config).shifted:
        hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
    return hidden


def apply_head(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return the logits [..., V] of hidden states [..., D], in the model's dtype."""
    return head_of(model)(rows)


def row_losses(model: Any, rows: torch.Tensor, targets: torch.Tensor, at_once: int) -> torch.Tensor:
    """Return the cross entropy of each target token under its hidden row, [N] float32, in nats.

    Args:
        rows: [N, D] hidden rows.
        targets: [N] tokens.
        at_once: rows that go through the head together; bounds the float32 logits to `at_once` x vocabulary.
    """
    chunks = zip(rows.split(at_once), targets.split(at_once), strict=True)
    return torch.cat([cross_entropy(apply_head(model, h).float(), t, reduction="none") for h, t in chunks])


def head_of(model: Any) -> nn.Linear:
    """Return the output layer, whose weight is [V, D]."""
    head = unwrap(model).lm_head
    assert isinstance(head, nn.Linear) and head.bias is None, f"a head without bias is expected, not {head}"
    return head


def unwrap(model: Any) -> Any:
    """Return the transformers model inside torch.compile, DistributedDataParallel and PEFT wrappers."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, PeftModel):
            model = model.get_base_model()
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            model = model.module
    return model
