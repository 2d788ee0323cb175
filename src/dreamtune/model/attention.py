"""Attention among the tokens of one document, where many documents stand one behind the other in a single row.

Packed that way nothing is padded, and every other layer sees one long row. On a GPU that has FlashAttention the kernel
for sequences of varying length (torch.nn.attention.varlen) takes the whole row at once; elsewhere each document goes
through `scaled_dot_product_attention` by itself, which is the same function.
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
    """Keys and values of one layer, kept from one pass to the next."""

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take those of a pass, [B, H_kv, q, d] each, and return those to attend to, [B, H_kv, L, d]."""


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    stored: "Stored | None" = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA attention; with `cu_seq_lens_q`, that of packed documents, each by itself.

    Args:
        query: [B, H, L, d]; packed: [1, H, T, d].
        key: [B, H_kv, L, d], as is `value`; each of its heads serves H / H_kv query heads.
        attention_mask: as transformers makes it; not looked at where documents are packed.
        cu_seq_lens_q: [documents + 1] int32, where each document begins, and T.
        max_length_q: tokens of the longest document.
        stored: takes this layer's keys and values and gives those to attend to, see `block_cache`.

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
    count, length = cu_seq_lens_q.shape[0] - 1, query.shape[2]
    if not config.is_causal and count > 1 and count * max_length_q == length:
        # All of one length: a batch, for which faster kernels exist. They plan anew for each length, so this is not
        # for single documents, of which each has its own.
        parts = [part.view(part.shape[1], count, -1, part.shape[3]).transpose(0, 1) for part in (query, key, value)]
        batched = scaled_dot_product_attention(parts[0], parts[1], parts[2], enable_gqa=groups > 1)
        return batched.transpose(1, 2).reshape(1, length, query.shape[1], -1), None
    if not config.is_causal and facts_of(config).flash and query.dtype in FLASH_TYPES:
        rows = [part[0].transpose(0, 1) for part in (query, key, value)]  # [T, heads, d]
        rows[1:] = [part.repeat_interleave(groups, dim=1) for part in rows[1:]]
        out = varlen_attn(rows[0], rows[1], rows[2], cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        assert isinstance(out, torch.Tensor)  # a pair only where the weights' normaliser is asked for
        return out[None], None
    spans = [slice(start, end) for start, end in pairwise(cu_seq_lens_q.tolist())]
    documents = [
        scaled_dot_product_attention(
            query[:, :, span], key[:, :, span], value[:, :, span], is_causal=config.is_causal, enable_gqa=True
        )
        for span in spans
    ]
    return torch.cat(documents, dim=2).transpose(1, 2), None


def _grouped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attend under a mask that is the same for every query: [B, H, q, d] to [B, q, H, d].

    The heads that share keys and values can then pass as further queries, and nothing is repeated for them.
    """
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, size)
    seen = mask[:, :, :1].expand(-1, -1, grouped.shape[2], -1)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=seen)  # [B, H_kv, groups * q, d]
    return out.reshape(batch, heads, length, size).transpose(1, 2)


def packs(base: Any) -> bool:
    """Return whether a model passes rows of different lengths as packed documents, without a mask and without
    waiting for the GPU."""
    flash: bool = not base.config.is_causal and facts_of(base.config).flash and base.dtype in FLASH_TYPES
    return flash


def row_boundaries(visible: np.ndarray) -> np.ndarray:
    """Return where documents begin and end, int32, when rows stand one behind the other in a single one.

    Each row makes one, and what fills it up, where something does, another: nobody else sees it.

    Args:
        visible: [n, L], false from the end of each row's text on.

    >>> row_boundaries(np.array([[1, 1, 0], [1, 1, 1]]))
    array([0, 2, 3, 6], dtype=int32)
    """
    rows, width = visible.shape
    starts = np.arange(rows) * width
    ends = starts + visible.astype(bool).sum(axis=1)
    return np.unique(np.concatenate([starts, ends, [rows * width]])).astype(np.int32)


def flash_runs(device: torch.device) -> bool:
    """Return whether torch's own FlashAttention runs there, for types of two bytes."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
