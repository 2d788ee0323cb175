"""Attention among the tokens of one document, where many documents stand one behind the other in a single row.

Packed that way nothing is padded, and every other layer sees one long row. On a GPU that has FlashAttention the kernel
for sequences of varying length (torch.nn.attention.varlen) takes the whole row at once; elsewhere each document goes
through `scaled_dot_product_attention` by itself, which is the same function.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_or_packed"
FLASH_TYPES = (torch.bfloat16, torch.float16)
AMPERE = (8, 0)  # compute capability from which torch's FlashAttention runs


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA attention; with `cu_seq_lens_q`, that of packed documents, each by itself.

    Args:
        query: [B, H, L, d]; packed: [1, H, T, d].
        key: [B, H_kv, L, d], as is `value`; each of its heads serves H / H_kv query heads.
        attention_mask: as transformers makes it; not looked at where documents are packed.
        cu_seq_lens_q: [documents + 1] int32, where each document begins, and T.
        max_length_q: tokens of the longest document.

    Returns:
        [B, L, H, d] (packed: [1, T, H, d]), and None for the weights, which are never formed.
    """
    groups = query.shape[1] // key.shape[1]
    if cu_seq_lens_q is None:
        if attention_mask is not None and attention_mask.stride(2) == 0 and groups > 1:
            return _grouped(query, key, value, attention_mask), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    config: Any = module.config
    if not config.is_causal and _flash_runs(query):
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


def _flash_runs(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype in FLASH_TYPES and torch.cuda.get_device_capability(query.device) >= AMPERE


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
