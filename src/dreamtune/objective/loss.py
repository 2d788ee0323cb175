"""The loss of a micro-batch: only supervised rows pass the head, some hundred at a time.

The logits of 8,192 tokens over Dream's 152,064 would fill 5 GB in float32. Here a chunk of them is alive at a time: the
forward pass forms the gradients of its rows (and of the head, where it is trained) at once, from the softmax it has at
hand, and the backward pass only scales them. (Cut cross entropy, Wijmans et al. 2024, and Liger's fused linear cross
entropy do so too, in kernels of their own.)
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dreamtune.model.logits import head_of, row_losses
from dreamtune.objective.packing import Batch, hidden_rows

HEAD_ROWS = 512  # rows that pass the head at once; bounds the float32 logits to HEAD_ROWS x vocabulary


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross entropy of each supervised token in nats, [N] float32, without a graph."""
    with torch.no_grad():
        return row_losses(model, supervised_rows(model, batch), batch.targets, HEAD_ROWS)


def loss_sums(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (sum of w * CE, with its graph; sum of CE / t up to the first end token), both in nats.

    The caller divides by the tokens of the whole *window* (`loss_tokens`, `nll_tokens`), of which this batch is a part.
    """
    head, rows = head_of(model), supervised_rows(model, batch)  # [N, D]
    # Where the head is sharded, its `loss` is this function between gathering the whole weight and letting it go.
    function = getattr(head, "loss", partial(head_loss, head))
    loss, losses = function(rows, batch.targets, batch.weights)
    return loss, (losses * batch.elbo_weights).sum()


def head_loss(head: nn.Linear, rows: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (sum of w * CE, with its graph; CE [N], without), in nats.

    Args:
        head: [V, D], trained or frozen.
        rows: [N, D] hidden rows.
        targets: [N] tokens.
        weights: [N] float32, w.
    """
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    return _HeadLoss.apply(rows, head.weight, targets, weights, trained)  # type: ignore[no-any-return]


def supervised_rows(model: nn.Module, batch: Batch) -> Tensor:
    """Return the hidden rows that score the supervised tokens, [N, D]."""
    return hidden_rows(model, batch)[batch.positions]


def head_parts(count: int) -> list[slice]:
    """Return the parts in which so many rows pass the head, as few as `HEAD_ROWS` allows and of nearly one size.

    A last part of a single row would be compiled anew, as the compiler treats a size of 1 apart.

    >>> head_parts(513)
    [slice(0, 256, None), slice(256, 513, None)]
    """
    parts = math.ceil(count / HEAD_ROWS)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


class _HeadLoss(torch.autograd.Function):
    """(sum of w * CE, CE [N]) of rows [N, D] under a head [V, D], which has a gradient too if it is trained."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, head: Tensor, targets: Tensor, weights: Tensor, trained: bool
    ) -> tuple[Tensor, Tensor]:  # scalar float32, [N] float32
        rows, kind = rows.to(head.dtype), rows.dtype
        losses = torch.empty(len(rows), dtype=_accumulated(head.dtype), device=rows.device)
        gradient = torch.empty_like(rows)
        of_head = torch.zeros_like(head, dtype=losses.dtype) if trained else None  # adds up over the parts
        slope = _slope(rows.device.type)
        for part in head_parts(len(rows)):
            losses[part], upstream = slope(rows[part] @ head.T, targets[part], weights[part])
            gradient[part] = upstream @ head
            if of_head is not None:
                of_head += upstream.T @ rows[part]
        ctx.save_for_backward(gradient.to(kind), None if of_head is None else of_head.to(head.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, of_head = ctx.saved_tensors
        return gradient * upstream[0], None if of_head is None else of_head * upstream[0], None, None, None


def _losses_and_slope(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return CE [n], and d (w * CE) / d logits = w (softmax - onehot), [n, V] in the type of the logits."""
    precise = logits.to(_accumulated(logits.dtype))  # [n, V]
    normaliser = precise.logsumexp(dim=-1, keepdim=True)
    losses = (normaliser - precise.gather(-1, targets[:, None])).squeeze(-1)
    hit = (torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]).to(precise.dtype)
    return losses, ((torch.exp(precise - normaliser) - hit) * weights[:, None]).to(logits.dtype)


@cache
def _slope(device_type: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """On a GPU as one compiled kernel, which reads the logits instead of writing half a dozen tables of their size."""
    return torch.compile(_losses_and_slope, dynamic=True) if device_type == "cuda" else _losses_and_slope


def _accumulated(kind: torch.dtype) -> torch.dtype:
    return torch.float64 if kind == torch.float64 else torch.float32
