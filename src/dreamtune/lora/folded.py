"""Frozen matrices with room for adapters: a layer's output and what its LoRA adapter (arXiv 2106.09685) adds, at once.

Beside a frozen weight W an adapter adds s B A dropout(x). Here s B stands in further columns of W:

    y = [W, s B] [x; A dropout(x)]

One product makes the sum, in float32 inside the product, without writing and reading the output once more. The product
of y's gradient with the same matrix is the gradient of x and of A dropout(x). Modules that share their input are rows
of one matrix; each adapter has columns for itself, which are zero in the rows of the other modules.

Adapters are float32 and the products are in the type of the frozen weights, mostly bf16. All weights of all adapters
are copied into that type at the start of each forward pass, by few operations; their gradients return the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from dreamtune.lora.dropout import dropout

ADAPTER = "default"  # PEFT's name
MULTIPLE = 8  # of a matrix's columns for adapters: GPUs read bf16 rows fast that begin at multiples of 16 bytes

Place = tuple[int, int, int, int]  # of a block in a matrix: first row, rows, first column, columns


@dataclass
class Matrix:
    """The frozen weights of modules, one below the other, and right of them blocks s B of their adapters."""

    layers: tuple[Any, ...]  # the modules' frozen layers, whose weights are views of `weight`
    weight: Tensor  # [sum of outs, in + columns]
    bias: Tensor | None  # [sum of outs]
    outs: list[int]
    places: tuple[Place, ...]  # of the blocks
    blocks: tuple[Tensor, ...] = ()  # s B [out, r] of this forward pass, in `room`, differentiable
    stack: Tensor | None = None  # [decoder layers, sum of outs, in + columns], see `stack_matrices`
    number: int = 0  # of `weight` in it

    def move(self, to: Tensor) -> None:
        """Move the weights to `to` [sum of outs, in + columns]."""
        start, self.weight = 0, to.copy_(self.weight)
        for layer in self.layers:
            layer.weight.data = self.weight[start : start + layer.out_features, : layer.in_features]
            start += layer.out_features


def room(matrices: Tensor, place: Place) -> Tensor:
    """Return a view of a block, [..., out, r]. Writing to it is no edit of the matrix to autograd, which has saved it.

    Args:
        matrices: [..., sum of outs, in + columns].
        place: of the block in each.
    """
    row, rows, column, columns = place
    return matrices.data[..., row : row + rows, column : column + columns]


@dataclass
class Folded:
    """Modules that share their input, see `fold`."""

    names: tuple[str, ...]
    adapters: list[Any]  # of those modules that have one, in their order, all of one rank
    matrices: tuple[Matrix, ...]
    inside: Tensor | None = None  # their A [adapters, r, in] of this forward pass, differentiable

    def outputs(self, x: Tensor, shared_dropout: bool) -> list[Tensor]:
        """Return the modules' outputs for their input x [..., in], adapters included: [..., out] each.

        Args:
            x: any type; the products are in that of the weights.
            shared_dropout: draw one dropout mask for the input of all adapters, not one for each.
        """
        rows = x.reshape(-1, x.shape[-1]).to(self.matrices[0].weight.dtype)
        low = self._low(rows, shared_dropout) if self.adapters else None
        found = []
        for each in self.matrices:
            if low is None or not each.places:
                y = linear(rows, each.weight[:, : rows.shape[1]], each.bias)
            else:
                y = _Product.apply(rows, low, each.weight, each.bias, each.places, *each.blocks)  # type: ignore[no-untyped-call]
            found += y.view(*x.shape[:-1], -1).split(each.outs, dim=-1)
        return found

    def _low(self, rows: Tensor, shared_dropout: bool) -> Tensor:
        """Return A dropout(x) of all adapters side by side, [T, columns], for x [T, in]; the last columns may be 0."""
        assert self.inside is not None, "`copy_adapters` runs before each forward pass"
        noise, count = self.adapters[0].lora_dropout[ADAPTER], len(self.adapters)
        if count == 1 or shared_dropout or not isinstance(noise, nn.Dropout):
            low = linear(dropout(noise, rows), self.inside.flatten(0, 1))
        else:
            noisy = dropout(noise, rows.expand(count, -1, -1))
            low = _Low.apply(noisy, self.inside).transpose(0, 1).flatten(1)  # type: ignore[no-untyped-call]
        spare = -low.shape[1] % MULTIPLE
        return pad(low, (0, spare)) if spare else low


def fold(parent: Any, parts: Sequence[Sequence[str]]) -> Folded | None:
    """Lay the frozen weights of modules that share their input into matrices with room for their adapters, in place.

    Each module's weight becomes a view of its part, and its old memory is free. Returns None, and changes nothing,
    unless all weights are ordinary matrices and all adapters plain LoRA.

    Args:
        parent: the attention or the MLP that holds them.
        parts: their names, those of each matrix.
    """
    names = tuple(name for part in parts for name in part)
    modules = [getattr(parent, name) for name in names]
    bases = [base_of(module) for module in modules]
    adapters = [module for module in modules if isinstance(module, LoraLayer)]
    plain = all(type(base) is nn.Linear for base in bases) and all(is_plain(adapter) for adapter in adapters)
    if not plain or len({adapter.r[ADAPTER] for adapter in adapters}) > 1:
        return None
    rank = adapters[0].r[ADAPTER] if adapters else 0
    first = {names[modules.index(adapter)]: number * rank for number, adapter in enumerate(adapters)}
    columns = math.ceil(len(adapters) * rank / MULTIPLE) * MULTIPLE
    matrices = tuple(_matrix(parent, part, columns, rank, first) for part in parts)
    return Folded(names, adapters, matrices)


def _matrix(parent: Any, names: Sequence[str], columns: int, rank: int, first: dict[str, int]) -> Matrix:
    """Move modules' weights into a new matrix with `columns` more; `first` says where each adapter's rank begin."""
    bases = [base_of(getattr(parent, name)) for name in names]
    outs, width = [base.out_features for base in bases], bases[0].in_features
    weight = bases[0].weight.new_zeros(sum(outs), width + columns)
    starts = [sum(outs[:number]) for number in range(len(outs))]
    for base, start in zip(bases, starts, strict=True):
        part = weight[start : start + base.out_features, :width]
        base.weight.data = part.copy_(base.weight.data)
    places = [
        (start, base.out_features, width + first[name], rank)
        for name, base, start in zip(names, bases, starts, strict=True)
        if name in first
    ]
    biased = any(base.bias is not None for base in bases)
    biases = [weight.new_zeros(base.out_features) if base.bias is None else base.bias.data for base in bases]
    return Matrix(tuple(bases), weight, torch.cat(biases) if biased else None, outs, tuple(places))


def stack_matrices(groups: Sequence[Folded]) -> None:
    """Lay the equal matrices of all decoder layers one behind the other, so that their adapters are copied by one call.

    Memory for one more set of equal matrices is needed meanwhile. For models whose kernels take about as long as their
    launch; where they are stacked already, nothing happens.

    Args:
        groups: of all layers, in their order.
    """
    alike: dict[Any, list[Matrix]] = {}
    for group in groups:
        for number, matrix in enumerate(group.matrices):
            alike.setdefault((group.names, number, matrix.weight.shape, matrix.places), []).append(matrix)
    for members in alike.values():
        if len(members) > 1 and members[0].places and members[0].stack is None:
            stack = members[0].weight.new_empty(len(members), *members[0].weight.shape)
            for number, (matrix, to) in enumerate(zip(members, stack, strict=True)):
                matrix.move(to)
                matrix.stack, matrix.number = stack, number


def base_of(module: nn.Module) -> Any:
    """Return the frozen layer inside an adapted one; a layer without an adapter is returned itself."""
    return module.base_layer if isinstance(module, LoraLayer) else module


def is_plain(adapter: Any) -> bool:
    """Return whether an adapter is LoRA without variants (DoRA, ...) and without a bias."""
    return not adapter.lora_variant and adapter.lora_B[ADAPTER].bias is None


def copy_adapters(groups: Sequence[Folded]) -> None:
    """Copy adapters' float32 weights to where `Folded` multiplies with them; gradients pass back through the copies.

    Once before each forward pass with gradients; a CUDA graph captures it with the pass.
    """
    groups = [group for group in groups if group.adapters]
    adapters = [adapter for group in groups for adapter in group.adapters]
    weights = [getattr(adapter, side)[ADAPTER].weight for side in ("lora_A", "lora_B") for adapter in adapters]
    if not weights:
        return
    scales = [adapter.scaling[ADAPTER] for adapter in adapters]
    copies = iter(_Copies.apply(groups, scales, *weights))  # type: ignore[no-untyped-call]
    for group in groups:
        group.inside = next(copies)
    for matrix in (matrix for group in groups for matrix in group.matrices):
        matrix.blocks = tuple(next(copies) for _ in matrix.places)


class _Copies(torch.autograd.Function):
    """Each group's `inside` and all `blocks` of its matrices, from all A and all B, float32: in few operations."""

    @staticmethod
    def forward(ctx: Any, groups: Sequence[Folded], scales: list[float], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.scales, ctx.groups, ctx.kind = scales, len(groups), weights[0].dtype
        inside, outside = weights[: len(scales)], weights[len(scales) :]
        stacks = [
            group.matrices[0].weight.new_empty(len(group.adapters), *group.adapters[0].lora_A[ADAPTER].weight.shape)
            for group in groups
        ]
        torch._foreach_copy_([copy for stack in stacks for copy in stack], inside)
        rooms = [(matrix, place) for group in groups for matrix in group.matrices for place in matrix.places]
        alike: dict[Any, list[tuple[Matrix, Tensor]]] = {}  # blocks that one call writes
        for (matrix, place), b, scale in zip(rooms, outside, scales, strict=True):
            where = matrix.weight if matrix.stack is None else matrix.stack
            alike.setdefault((where.data_ptr(), place, scale), []).append((matrix, b))
        for (_, place, scale), members in alike.items():
            stack = members[0][0].stack
            if stack is not None and [matrix.number for matrix, _ in members] == list(range(len(stack))):
                torch.mul(torch.stack([b for _, b in members]), scale, out=room(stack, place))
            else:
                for matrix, b in members:
                    torch.mul(b, scale, out=room(matrix.weight, place))
        return (*stacks, *(room(matrix.weight, place) for matrix, place in rooms))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        found = [each for stack in upstream[: ctx.groups] for each in stack] + list(upstream[ctx.groups :])
        exact = [torch.empty_like(each, dtype=ctx.kind) for each in found]
        torch._foreach_copy_(exact, found)
        torch._foreach_mul_(exact[len(ctx.scales) :], ctx.scales)
        return None, None, *exact


class _Product(torch.autograd.Function):
    """[x, low] times a matrix: [T, outs], from x [T, in] and low [T, columns]; gradients of both, and of its blocks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, weight: Tensor, bias: Tensor | None, places: tuple[Place, ...], *_: Tensor
    ) -> Tensor:
        ctx.save_for_backward(low, weight)
        ctx.places = places
        return linear(torch.cat([x, low], dim=1), weight, bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (low, weight), [dy] = ctx.saved_tensors, upstream
        both = dy @ weight
        width = both.shape[1] - low.shape[1]
        blocks = [
            dy[:, row : row + rows].T @ low[:, column - width : column - width + columns]
            for row, rows, column, columns in ctx.places
        ]
        return both[:, :width], both[:, width:], None, None, None, *blocks


class _Low(torch.autograd.Function):
    """A x of several adapters: [adapters, T, r], from x [adapters, T, in] and A [adapters, r, in].

    The gradient of A is contiguous, as its parameter is, which torch's own would not be.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(x, inside)
        return torch.bmm(x, inside.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        (x, inside), [low] = ctx.saved_tensors, upstream
        return torch.bmm(low, inside), torch.bmm(low.mT, x)
