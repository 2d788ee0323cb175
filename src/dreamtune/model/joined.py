"""A decoder layer in training: products that share their input are one, and the last layer computes what is scored.

Query, key and value read the same normalised rows. Their frozen weights lie one behind the other in memory, so that one
product makes all of them, and one product their input's gradient. What PEFT calls and saves stays as it is: each
module's weight is a view of its part. Packed (4-bit) and FP8 weights are multiplied one by one. So are those of gate
and up: each is wide enough by itself, and a joined product wants the gradients of both side by side, which cost Dream
7B 12 ms of a step of 396 on an H200.

Behind the last layer only supervised tokens are read. So its queries, its output and its MLP are computed at the rows
that score them; keys and values at all. In a causal model a query's place says what it sees, so queries are computed at
all rows, too, and only what follows attention at the scored ones.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dreamtune.model.attention import attend
from dreamtune.model.dropout import dropout

ADAPTER = "default"  # PEFT's name
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def join(layer: Any) -> None:
    """Lay the frozen weights of q, k and v one behind the other, in place, where they are ordinary matrices.

    Each module's weight becomes a view of its rows of `joined`, (weight [sum of outs, in], bias or None, outs).
    """
    attention = layer.self_attn
    bases = [base_of(getattr(attention, name)) for name in ATTENTION]
    if hasattr(attention, "joined") or not all(type(base) is nn.Linear for base in bases):
        return
    biases = [base.bias for base in bases]
    weight, outs = torch.cat([base.weight.data for base in bases]), [base.out_features for base in bases]
    for base, part in zip(bases, weight.split(outs), strict=True):
        base.weight.data = part
    attention.joined = (weight, None if biases[0] is None else torch.cat([bias.data for bias in biases]), outs)


def base_of(module: nn.Module) -> Any:
    """Return the frozen layer inside an adapted one; a layer without an adapter is returned itself."""
    return module.base_layer if isinstance(module, LoraLayer) else module


def layer_forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    shared_dropout: bool = False,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
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
        cu_seq_lens_q, max_length_q: boundaries of packed documents, and their longest, see `attend`.
        rows: [N], in ascending order, the rows of the packed row whose output is wanted; None for all.

    Returns:
        [B, L, D], or [1, N, D] with `rows`.
    """
    assert position_embeddings is not None
    attention, mlp = layer.self_attn, layer.mlp
    packing: dict[str, Any] = {"cu_seq_lens_q": cu_seq_lens_q, "max_length_q": max_length_q}
    x, (cos, sin) = layer.input_layernorm(hidden_states), position_embeddings
    chosen = None if attention.config.is_causal else rows
    names = ATTENTION if chosen is None else ATTENTION[1:]
    outs = products(attention, names, x, shared_dropout)
    if chosen is not None:
        assert cu_seq_lens_q is not None
        outs = [product(attention.q_proj, x[:, chosen]), *outs]
        starts = torch.searchsorted(chosen, cu_seq_lens_q).to(torch.int32)  # of each document's rows among `rows`
        packing |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": cu_seq_lens_q}
    query, key, value = (out.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for out in outs)
    if chosen is None:
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
    else:
        query = apply_rotary_pos_emb(query, query, cos[:, chosen], sin[:, chosen])[0]
        key = apply_rotary_pos_emb(key, key, cos, sin)[0]
    mixed, _none = attend(attention, query, key, value, attention_mask, scaling=attention.scaling, **packing)
    mixed = mixed.flatten(-2)
    if rows is not None:
        hidden_states, mixed = hidden_states[:, rows], mixed if chosen is not None else mixed[:, rows]
    hidden_states = hidden_states + product(attention.o_proj, mixed)
    gate, up = products(mlp, MLP, layer.post_attention_layernorm(hidden_states), shared_dropout)
    out: Tensor = hidden_states + product(mlp.down_proj, mlp.act_fn(gate) * up)
    return out


def products(parent: Any, names: Sequence[str], x: Tensor, shared_dropout: bool) -> list[Tensor]:
    """Return the outputs of modules that share their input x [..., in], adapters included: [..., out] each.

    Args:
        parent: the attention or the MLP that holds them.
        names: of the modules, in the order of `join`; those in front may be missing.
        x: their input.
        shared_dropout: draw one dropout mask for the input of all adapters, and multiply it by all A at once.
    """
    modules = [getattr(parent, name) for name in names]
    if hasattr(parent, "joined"):
        weight, bias, outs = parent.joined
        skipped = sum(outs[: len(outs) - len(names)])
        found = linear(x, weight[skipped:], None if bias is None else bias[skipped:])
        results = list(found.split(outs[len(outs) - len(names) :], dim=-1))
    else:
        results = [base_of(module)(x) for module in modules]
    return adapted(modules, x, results, shared_dropout)


def product(module: Any, x: Tensor) -> Tensor:
    """Return the output of a module alone, its adapter included: x [..., in] to [..., out]."""
    return adapted([module], x, [base_of(module)(x)], False)[0]


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
