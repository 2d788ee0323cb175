"""A batch of rows of different lengths as one row of packed documents: nothing is padded away by a mask."""

from typing import Any

import torch

from dreamtune.model.logits import aligned, unwrap


def packed_rows(model: Any, input_ids: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
    """Return `hidden_states` [B, L, D] of input_ids [B, L], which pass as one row of packed documents.

    No mask is needed for what fills a row up, so that faster attention runs; see `attention.row_boundaries`.
    """
    base = unwrap(model)
    return aligned(base, pass_packed(base, input_ids, boundaries))


def pass_packed(base: Any, input_ids: torch.Tensor, boundaries: torch.Tensor, **more: Any) -> torch.Tensor:
    """Return the hidden rows [B, L, D] as the layers leave them; `more` goes to these."""
    count, length = input_ids.shape
    places = torch.arange(length, device=input_ids.device).expand_as(input_ids)
    hidden: torch.Tensor = base.model(
        input_ids=input_ids.reshape(1, -1),
        attention_mask=input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),  # keeps transformers from making one, [T, T]
        position_ids=places.reshape(1, -1),
        use_cache=False,
        cu_seq_lens_q=boundaries,
        max_length_q=length,
        **more,
    ).last_hidden_state
    return hidden.view(count, length, -1)
