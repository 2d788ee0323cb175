"""A forward pass over rows of different lengths, packed one behind the other into a single row.

Attention stays within each document, so no mask has to hide the padding, and kernels that take no mask can run.
"""

from typing import Any

import torch

from dreamtune.model.logits import aligned, unwrap


def packed_rows(model: Any, input_ids: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
    """Return the hidden states [B, L, D] of input_ids [B, L]; row i is the one that scores token i.

    Args:
        model: a model that `attention.packs`.
        input_ids: [B, L], padding included.
        boundaries: `attention.row_boundaries` of the batch, int32: each row's text is a document, and its padding
            another one, which nothing else sees.
    """
    base = unwrap(model)
    return aligned(base, forward_packed(base, input_ids, boundaries))


def forward_packed(base: Any, input_ids: torch.Tensor, boundaries: torch.Tensor, **more: Any) -> torch.Tensor:
    """Return the hidden states [B, L, D] of the last layer, before `aligned` shifts them.

    Args:
        base: the unwrapped model.
        input_ids: [B, L].
        boundaries: see `packed_rows`.
        more: further arguments for every layer, such as `stored`.
    """
    count, length = input_ids.shape
    places = torch.arange(length, device=input_ids.device).expand_as(input_ids)
    hidden: torch.Tensor = base.model(
        input_ids=input_ids.reshape(1, -1),
        attention_mask=input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),  # else transformers makes one of [T, T]
        position_ids=places.reshape(1, -1),
        use_cache=False,
        cu_seq_lens_q=boundaries,
        max_length_q=length,
        **more,
    ).last_hidden_state
    return hidden.view(count, length, -1)
