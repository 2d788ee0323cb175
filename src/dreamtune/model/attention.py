"""Attention for packed documents: they stand one behind the other in a single row, and each attends only to itself.

Packed documents need no padding, and every layer but attention sees one long row. On a GPU that has FlashAttention, its
kernel for sequences of varying length (torch.nn.attention.varlen) takes the whole row at once; elsewhere each document
goes through `scaled_dot_product_attention` by itself, which computes the same.

In a causal model (`config.is_causal`) each token sees itself and those before it in its document, by all of these ways.
So it does with a `right_context` of 0, and with one of w it also sees the next w tokens: the steps between causal and
full attention, see `objective.annealing`.
"""

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from dreamtune.model.facts import facts_of

NAME = "sdpa_or_packed"
FLASH_TYPES = (torch.bfloat16, torch.float16)
AMPERE = (8, 0)  # compute capability from which torch's FlashAttention runs


class Stored(Protocol):
    """Interface of a cache of one layer's keys and values, which lives from one forward pass to the next."""

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the keys and values of a pass, [B, H_kv, q, d] each; return those to attend to, [B, H_kv, L, d] each."""


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    cu_seq_lens_k: torch.Tensor | None = None,
    stored: "Stored | None" = None,
    right_context: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention: transformers' SDPA or, with `cu_seq_lens_q`, that of packed documents, each by itself.

    transformers calls this function, by the name `NAME`, in every attention layer.

    Args:
        query: [B, H, L, d]; packed: [1, H, T, d].
        key: [B, H_kv, L, d], as is `value`; each of its heads serves H / H_kv query heads.
        attention_mask: as transformers makes it; ignored where documents are packed.
        cu_seq_lens_q: [documents + 1] int32, where each document begins, and T. The name is transformers'.
        max_length_q: tokens of the longest document.
        cu_seq_lens_k: where each document begins among keys and values, if queries are only some of its rows; only
            where each sees its whole document, since a query's place would decide what it sees.
        stored: cache that takes this layer's keys and values and gives those to attend to, see `block_cache`.
        right_context: tokens behind its own that a query of a packed document sees; None for all.

    Returns:
        [B, L, H, d] (packed: [1, T, H, d]), and None for the weights, which are never formed.
    """
    if stored is not None:
        key, value = stored.update(key, value)
    groups = query.shape[1] // key.shape[1]
    if cu_seq_lens_q is None:
        if attention_mask is not None and attention_mask.stride(2) == 0 and groups > 1:
            return _grouped(query, key, value, attention_mask), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    config: Any = module.config
    right = 0 if config.is_causal else right_context
    assert cu_seq_lens_k is None or right is None, "a query's place decides what it sees, so all rows are queries"
    limit: dict[str, Any] = {} if right is None else {"window_size": (-1, right)}  # all keys before, `right` behind
    flash = facts_of(config).flash and query.dtype in FLASH_TYPES
    count, length = cu_seq_lens_q.shape[0] - 1, query.shape[2]
    starts = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    equal = cu_seq_lens_k is None and count > 1 and count * max_length_q == length
    if equal and not (flash and right):
        # Documents of one length are a batch, for which faster kernels exist. These kernels are planned once for each
        # length they meet, so a single document, whose length is new nearly every time, does not take this way.
        batch = [
            tensor.view(tensor.shape[1], count, -1, tensor.shape[3]).transpose(0, 1) for tensor in (query, key, value)
        ]
        batched = _seen(batch[0], batch[1], batch[2], right, groups > 1)
        return batched.transpose(1, 2).reshape(1, length, query.shape[1], -1), None
    if flash:
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [T, heads, d]
        rows[1:] = [tensor.repeat_interleave(groups, dim=1) for tensor in rows[1:]]
        out = varlen_attn(
            rows[0],
            rows[1],
            rows[2],
            cu_seq_lens_q,
            starts,
            max_length_q,
            max_length_q,
            **limit,
        )
        assert isinstance(out, torch.Tensor)  # a pair only where the weights' normaliser is asked for
        return out[None], None
    queries, keys = ([slice(*ends) for ends in pairwise(cu.tolist())] for cu in (cu_seq_lens_q, starts))
    documents = [
        _seen(query[:, :, some], key[:, :, span], value[:, :, span], right, True)
        for some, span in zip(queries, keys, strict=True)
    ]
    return torch.cat(documents, dim=2).transpose(1, 2), None


def _seen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, right: int | None, enable_gqa: bool
) -> torch.Tensor:
    """Return SDPA's output, [B, H, q, d], where a query sees keys up to `right` places behind its own; None for all.

    SDPA knows one limit without a mask: query i sees keys up to i. With `right` queries of zeros in front, query i of
    the document is number i + right and sees keys up to there. Outputs of the zeros are left out, so that no gradient
    comes from them.
    """
    if not right or right >= key.shape[2] - 1:
        return scaled_dot_product_attention(query, key, value, is_causal=right == 0, enable_gqa=enable_gqa)
    moved = torch.cat([query.new_zeros(*query.shape[:2], right, query.shape[3]), query], dim=2)
    return scaled_dot_product_attention(moved, key, value, is_causal=True, enable_gqa=enable_gqa)[:, :, right:]


def _grouped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attend under a mask that is the same for every query: [B, H, q, d] to [B, q, H, d].

    The H / H_kv query heads that share keys and values are stacked as further queries of one head, so that keys and
    values need not be repeated for them.
    """
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, size)
    seen = mask[:, :, :1].expand(-1, -1, grouped.shape[2], -1)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=seen)  # [B, H_kv, groups * q, d]
    return out.reshape(batch, heads, length, size).transpose(1, 2)


def packs(base: Any) -> bool:
    """Return whether the model attends packed documents of different lengths in one FlashAttention kernel.

    Where it does not, `attend` needs the boundaries on the host, which waits for the GPU, and computes document by
    document; the sampler then pads and masks its rows instead.

    Args:
        base: the transformers model, without wrappers (`unwrap`).
    """
    flash: bool = not base.config.is_causal and facts_of(base.config).flash and base.dtype in FLASH_TYPES
    return flash


def row_boundaries(visible: np.ndarray) -> np.ndarray:
    """Return the boundaries [documents + 1] int32 of packed documents, when n padded rows are laid end to end.

    The text of a row is one document, and its padding, where it has some, another, so that no text attends to padding.

    Args:
        visible: [n, L], false at padding, which stands at the end of a row.

    >>> row_boundaries(np.array([[1, 1, 0], [1, 1, 1]]))
    array([0, 2, 3, 6], dtype=int32)
    """
    rows, width = visible.shape
    starts = np.arange(rows) * width
    ends = starts + visible.astype(bool).sum(axis=1)
    return np.unique(np.concatenate([starts, ends, [rows * width]])).astype(np.int32)


def flash_runs(device: torch.device) -> bool:
    """Return whether torch's own FlashAttention runs on the device, for bfloat16 and float16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
