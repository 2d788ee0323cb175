"""A decoder layer in training: products that share their input are one, and the last layer computes what is scored.

Query, key and value read the same normalised rows. Their frozen weights lie in one matrix, so that one product makes
all of them, and one product their input's gradient; further columns hold what their adapters add, see `folded`. What
PEFT calls and saves stays as it is: each module's weight is a view of its part. Packed (4-bit) and FP8 weights are
multiplied one by one, and their adapters beside them. So are those of gate and up where each is wide enough by itself:
a joined product wants the gradients of both side by side, which cost Dream 7B 12 ms of a step of 396 on an H200.

Behind the last layer only supervised tokens are read. So its queries, its output and its MLP are computed at the rows
that score them; keys and values at all. In a causal model a query's place says what it sees, so queries are computed at
all rows, too, and only what follows attention at the scored ones. So they are where training limits the right context.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from dreamtune.lora.dropout import dropout
from dreamtune.lora.folded import ADAPTER, Folded, base_of, fold
from dreamtune.model.attention import attend

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def join(layer: Any, queries_apart: bool) -> list[Folded]:
    """Fold a layer's frozen weights in place, see `folded.fold`; return what is folded, also if it was before.

    Args:
        layer: a decoder layer of transformers' Llama or Qwen2.
        queries_apart: queries are computed at other rows than keys and values, as in the last layer.
    """
    attention, mlp = layer.self_attn, layer.mlp
    queries = [[ATTENTION[:1]], [ATTENTION[1:]]] if queries_apart else [[ATTENTION]]
    wanted: dict[Any, list[list[tuple[str, ...]]]] = {
        attention: [*queries, [("o_proj",)]],
        mlp: [[MLP[:1], MLP[1:]], [("down_proj",)]],  # gate and up: one input, a matrix each
    }
    for parent, groups in wanted.items():
        if not hasattr(parent, "folded"):
            found = [folded for parts in groups if (folded := fold(parent, parts))]
            parent.folded = {folded.names: folded for folded in found}
    return [*attention.folded.values(), *mlp.folded.values()]


def layer_forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    shared_dropout: bool = False,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    right_context: int | None = None,
    rows: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Compute a decoder layer of transformers' Llama or Qwen2 as its own `forward` does.

    Args:
        layer: after `join`.
        hidden_states: [B, L, D]; packed: [1, T, D].
        attention_mask: as `attend` takes it.
        position_embeddings: cosines and sines, [B, L, d] each.
        shared_dropout: adapters that share an input also share its dropout.
        cu_seq_lens_q, max_length_q, right_context: boundaries of packed documents, their longest, and how many later
            tokens each token sees, see `attend`.
        rows: [N], in ascending order, the rows of the packed row whose output is wanted; None for all.

    Returns:
        [B, L, D], or [1, N, D] with `rows`.
    """
    assert position_embeddings is not None
    attention, mlp = layer.self_attn, layer.mlp
    packing: dict[str, Any] = {"cu_seq_lens_q": cu_seq_lens_q, "max_length_q": max_length_q}
    packing["right_context"] = right_context
    x, (cos, sin) = layer.input_layernorm(hidden_states), position_embeddings
    chosen = None if attention.config.is_causal or right_context is not None else rows
    if chosen is None:
        outs = products(attention, ATTENTION, x, shared_dropout)
    else:
        assert cu_seq_lens_q is not None
        outs = products(attention, ATTENTION[1:], x, shared_dropout)
        outs = [*products(attention, ATTENTION[:1], x[:, chosen], shared_dropout), *outs]
        starts = torch.searchsorted(chosen, cu_seq_lens_q).to(torch.int32)  # of each document's rows among `rows`
        packing |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": cu_seq_lens_q}
    query, key, value = (out.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for out in outs)
    angles = (cos, sin) if chosen is None else (cos[:, chosen], sin[:, chosen])
    query, key = rotate(query, *angles), rotate(key, cos, sin)
    mixed, _none = attend(attention, query, key, value, attention_mask, scaling=attention.scaling, **packing)
    mixed = mixed.flatten(-2)
    if rows is not None:
        hidden_states, mixed = hidden_states[:, rows], mixed if chosen is not None else mixed[:, rows]
    hidden_states = hidden_states + products(attention, ("o_proj",), mixed, shared_dropout)[0]
    gate, up = products(mlp, MLP, layer.post_attention_layernorm(hidden_states), shared_dropout)
    out: Tensor = hidden_states + products(mlp, ("down_proj",), mlp.act_fn(gate) * up, shared_dropout)[0]
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return rotary embeddings (arXiv 2104.09864) of queries or keys: the numbers of transformers' function to the bit.

    The halves of a head change places by a flip, whose gradient is a flip. Slices that are joined again, as there, have
    slices of zeros as their gradient, which make compiled code read and write twice as much.

    Args:
        x: [B, heads, L, d].
        cos, sin: [B, L, d] each, of the same angles in both halves.
    """
    half = x.shape[-1] // 2
    first = torch.arange(x.shape[-1], device=x.device) < half
    swapped = x.unflatten(-1, (2, half)).flip(-2).flatten(-2)
    return x * cos.unsqueeze(1) + swapped * torch.where(first, -sin, sin).unsqueeze(1)


def products(parent: Any, names: Sequence[str], x: Tensor, shared_dropout: bool) -> list[Tensor]:
    """Return the outputs of modules that share their input x [..., in], adapters included: [..., out] each.

    Args:
        parent: the attention or the MLP that holds them.
        names: of the modules.
        x: their input.
        shared_dropout: draw one dropout mask for the input of all adapters, and multiply it by all A at once.
    """
    modules = [getattr(parent, name) for name in names]
    folded = parent.folded.get(tuple(names))
    if folded is not None and not any(adapter.disable_adapters for adapter in folded.adapters):
        return folded.outputs(x, shared_dropout)
    return adapted(modules, x, [base_of(module)(x) for module in modules], shared_dropout)


def adapted(modules: Sequence[Any], x: Tensor, results: list[Tensor], shared_dropout: bool) -> list[Tensor]:
    """Add what the adapters of `modules` make of their input x to `results`, the outputs of their frozen layers."""
    places = [n for n, module in enumerate(modules) if isinstance(module, LoraLayer) and not module.disable_adapters]
    if not places:
        return results
    adapters = [modules[place] for place in places]
    updates = adapter_updates(adapters, x.to(adapters[0].lora_A[ADAPTER].weight.dtype), shared_dropout)
    for place, adapter, update in zip(places, adapters, updates, strict=True):
        results[place] = (results[place] + update * adapter.scaling[ADAPTER]).to(results[place].dtype)
    return results


def adapter_updates(adapters: Sequence[Any], x: Tensor, shared_dropout: bool) -> Sequence[Tensor]:
    """Return B A dropout(x) of adapters of one rank that share their input x [..., in]: [..., out] each.

    Each draws its own dropout, as PEFT does, but those of all are one tensor, [adapters, ..., in], and so are their
    products with A, and with B where all outputs have one width.
    """
    inside = [adapter.lora_A[ADAPTER].weight for adapter in adapters]  # [r, in] each
    outside = [adapter.lora_B[ADAPTER].weight for adapter in adapters]  # [out, r] each
    noise, count = adapters[0].lora_dropout[ADAPTER], len(adapters)
    if count == 1 or shared_dropout or not isinstance(noise, nn.Dropout):
        narrow = linear(dropout(noise, x), torch.cat(inside)).split([len(a) for a in inside], dim=-1)
        return [linear(low, b) for low, b in zip(narrow, outside, strict=True)]
    noisy = dropout(noise, x.reshape(1, -1, x.shape[-1]).expand(count, -1, -1))
    low = torch.bmm(noisy, torch.stack(inside).mT)  # [adapters, T, r]
    if len({len(b) for b in outside}) == 1:
        wide: Sequence[Tensor] = torch.bmm(low, torch.stack(outside).mT).unbind()
    else:
        wide = [linear(each, b) for each, b in zip(low, outside, strict=True)]
    return [update.view(*x.shape[:-1], -1) for update in wide]
