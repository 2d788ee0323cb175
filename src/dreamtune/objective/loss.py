"""The loss of a micro-batch: only supervised positions go through the head, a few hundred at a time.

The logits of 8,192 tokens over Dream's vocabulary of 152,064 would fill 5 GB in float32. Here the logits of one chunk
exist at a time. While a chunk's softmax is at hand, the forward pass also computes the gradients of its hidden rows
(and of the head, where it is trained); the backward pass only scales them. Cut cross entropy (Wijmans et al. 2024,
arXiv 2411.09009) and Liger's fused linear cross entropy work the same way, in custom GPU kernels.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dreamtune.model.logits import head_of, row_losses
from dreamtune.objective.packing import Batch, hidden_rows

HEAD_ROWS = 512  # hidden rows that go through the head at once; bounds the float32 logits to HEAD_ROWS x vocabulary


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross entropy of each supervised token in nats, [N] float32, without an autograd graph."""
    with torch.no_grad():
        return row_losses(model, supervised_rows(model, batch), batch.targets, HEAD_ROWS)


def loss_sums(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (sum of w * CE, with its autograd graph; sum of CE / t up to the first end token), both in nats.

    The caller divides by the tokens of the whole *window* (`loss_tokens`, `nll_tokens`), to which this micro-batch
    belongs.
    """
    loss, losses = weighted_loss(model, batch)
    return loss, (losses * batch.elbo_weights).sum()


def weighted_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (sum of w * CE, with its autograd graph; CE [N] of each supervised token, without), in nats."""
    head, rows = head_of(model), supervised_rows(model, batch)  # [N, D]
    # FSDP gathers a sharded head's weight around the head's own method only, so there `head_loss` is called as one.
    function = getattr(head, "loss", partial(head_loss, head))
    found: tuple[Tensor, Tensor] = function(rows, batch.targets, batch.weights)
    return found


def source_sums(losses: Tensor, batch: Batch, count: int) -> list[Tensor]:
    """Return the sum of w * CE of each of `count` sources, scalars; [] for 0, zeros for a batch of no source.

    Args:
        losses: [N] CE of the supervised tokens.
    """
    if batch.sources is None:
        return [losses.new_zeros(())] * count
    return [(losses * batch.weights * (batch.sources == number)).sum() for number in range(count)]


def head_loss(head: nn.Linear, rows: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (sum of w * CE, a scalar with its autograd graph; CE [N], without), in nats.

    Args:
        head: output layer with weight [V, D], trained or frozen.
        rows: [N, D] hidden rows, each of which scores its target.
        targets: [N] tokens.
        weights: [N] float32, w.
    """
    trained = head.weight.requires_grad and torch.is_grad_enabled()
    return _HeadLoss.apply(rows, head.weight, targets, weights, trained)  # type: ignore[no-any-return]


def supervised_rows(model: nn.Module, batch: Batch) -> Tensor:
    """Return the hidden rows that score the supervised tokens, [N, D].

    With gradients, the last layer of a model that is prepared for training (`train.layers`) computes these rows alone.
    """
    if torch.is_grad_enabled() and getattr(model, "dreamtune_rows", False) and batch.ordered:
        return hidden_rows(model, batch, batch.positions)
    # Not by brackets: their gradient is added up by sorting the positions, in a dozen kernels.
    return hidden_rows(model, batch).index_select(0, batch.positions)


def head_chunks(count: int) -> list[slice]:
    """Return the slices of `count` hidden rows that go through the head in turn: few, and of nearly equal length.

    Cut into full chunks, 513 rows would leave one for the last, which would be compiled separately: torch.compile
    specialises on a size of 1.

    >>> head_chunks(513)
    [slice(0, 256, None), slice(256, 513, None)]
    """
    chunks = math.ceil(count / HEAD_ROWS)
    return [slice(count * chunk // chunks, count * (chunk + 1) // chunks) for chunk in range(chunks)]


class _HeadLoss(torch.autograd.Function):
    """Autograd function of `head_loss`: rows [N, D] and head [V, D] to (sum of w * CE, CE [N]).

    The forward pass keeps d loss / d rows and, if the head is `trained`, d loss / d head.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, head: Tensor, targets: Tensor, weights: Tensor, trained: bool
    ) -> tuple[Tensor, Tensor]:  # scalar float32, [N] float32
        rows, kind = rows.to(head.dtype), rows.dtype
        losses = torch.empty(len(rows), dtype=_accumulated(head.dtype), device=rows.device)
        gradient = torch.empty_like(rows)
        head_gradient = torch.zeros_like(head, dtype=losses.dtype) if trained else None  # summed over the chunks
        losses_and_gradients = _chunk_function(rows.device.type)
        for chunk in head_chunks(len(rows)):
            losses[chunk], upstream = losses_and_gradients(rows[chunk] @ head.T, targets[chunk], weights[chunk])
            gradient[chunk] = upstream @ head  # [n, V] @ [V, D]
            if head_gradient is not None:
                head_gradient += upstream.T @ rows[chunk]
        ctx.save_for_backward(gradient.to(kind), None if head_gradient is None else head_gradient.to(head.dtype))
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, head_gradient = ctx.saved_tensors
        scaled = None if head_gradient is None else head_gradient * upstream[0]
        return gradient * upstream[0], scaled, None, None, None


def _losses_and_gradients(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return CE [n], and d (w * CE) / d logits = w (softmax - onehot), [n, V] in the type of the logits.

    Args:
        logits: [n, V].
        targets: [n] tokens.
        weights: [n], w.
    """
    precise = logits.to(_accumulated(logits.dtype))  # [n, V]
    normaliser = precise.logsumexp(dim=-1, keepdim=True)
    losses = (normaliser - precise.gather(-1, targets[:, None])).squeeze(-1)
    hit = (torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]).to(precise.dtype)
    return losses, ((torch.exp(precise - normaliser) - hit) * weights[:, None]).to(logits.dtype)


@cache
def _chunk_function(device_type: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `_losses_and_gradients`; on a GPU as one compiled kernel, without half a dozen copies of the logits."""
    return torch.compile(_losses_and_gradients, dynamic=True) if device_type == "cuda" else _losses_and_gradients


def _accumulated(kind: torch.dtype) -> torch.dtype:
    return torch.float64 if kind == torch.float64 else torch.float32
