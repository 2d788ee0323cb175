"""Products of frozen layers in 8-bit floating point (FP8, Micikevicius et al. 2022, arXiv 2209.05433).

A layer's input, and in the backward pass the gradient of its output, is rounded to E4M3 with a scale for each row (each
token), its weight with a scale for each of the product's columns. Scales for whole tensors would be faster to find, but
then the largest number of one document would decide how another document, packed beside it, is rounded.

E4M3 serves the gradients too: a row's own scale spares them the range of E5M2, which would cost them a bit of mantissa.
The forward product sums over a weight's second dimension and the backward product over its first, and FP8 products want
the summed dimension contiguous: so in training the weight is held twice, in as many bytes as once in bf16.
"""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.nn.functional import pad

from dreamtune.errors import UserError
from dreamtune.model.nf4 import dequantised

FP8 = torch.float8_e4m3fn
ADA = (8, 9)  # compute capability from which GPUs multiply FP8 (Ada has 8.9, Hopper 9.0)
MULTIPLE = 16  # of a weight's two dimensions, and of the rows of a product without scales


class Fp8Linear(nn.Module):
    """A frozen linear layer whose products are FP8: with its input and, in training, with its output's gradient.

    Args:
        layer: dense, its weight [out, in] in a 16- or 32-bit type, or 4-bit; both dimensions are multiples of 16.
        trains: whether gradients pass through it. Without, as in generation, its products are those of few rows, and
            its weight is held once.
    """

    weight: nn.Parameter  # [out, in] FP8, for the forward product
    out_scales: Tensor  # [out, 1] float32
    transposed: Tensor  # [in, out] FP8, for the backward product; in training only
    in_scales: Tensor  # [in, 1] float32; in training only
    one: Tensor  # the scale of products that have none; in generation only

    def __init__(self, layer: nn.Linear, trains: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.trains = trains
        weight = dequantised(layer) if isinstance(layer, Linear4bit) else layer.weight.detach()
        held, out_scales = rounded_rows(weight)
        self.weight = nn.Parameter(held, requires_grad=False)  # a parameter, so that it is counted once
        self.register_buffer("out_scales", out_scales, persistent=False)
        if trains:
            transposed, in_scales = rounded_rows(weight.T)
            self.register_buffer("transposed", transposed, persistent=False)
            self.register_buffer("in_scales", in_scales, persistent=False)
        else:
            self.register_buffer("one", torch.ones((), device=weight.device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., out] for an input [..., in], in the type of the input."""
        if not self.trains:
            few = few_times(x, self.weight, self.out_scales, self.one)  # float32
            return (few if self.bias is None else few + self.bias).to(x.dtype)
        scales = (self.out_scales, self.in_scales)
        out: Tensor = _Fp8Product.apply(x, self.weight, self.transposed, *scales)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _Fp8Product(torch.autograd.Function):
    """x [..., in] times a frozen weight, and the gradient of x, [..., in] again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, transposed: Tensor, out_scales: Tensor, in_scales: Tensor
    ) -> Tensor:
        ctx.save_for_backward(transposed, in_scales)
        return times(x, weight, out_scales)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        transposed, in_scales = ctx.saved_tensors
        return times(upstream[0], transposed, in_scales), None, None, None, None


def times(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Return x [..., K] times the transpose of an FP8 weight [N, K] with scales [N, 1]: [..., N] in x's type."""
    rows, row_scales = rounded_rows(x.reshape(-1, x.shape[-1]))
    return product(rows, weight.T, row_scales, scales.T, x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def few_times(x: Tensor, weight: Tensor, scales: Tensor, one: Tensor) -> Tensor:
    """Return what `times` does, in float32, and for few rows faster: scales multiply the result of a plain product.

    Args:
        x, weight, scales: see `times`.
        one: the number 1, on the weight's device.
    """
    rows = x.reshape(-1, x.shape[-1])
    count: int = rows.shape[0]
    rounded, row_scales = rounded_rows(pad(rows, (0, 0, 0, -count % MULTIPLE)))
    found = product(rounded, weight.T, one, one, x.dtype).float() * row_scales * scales.T
    return found[:count].reshape(*x.shape[:-1], weight.shape[0])


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of x [M, K] in FP8, contiguous, each divided by its scale, and the scales [M, 1] float32.

    The largest number of a row becomes 448, the largest of E4M3. NaN and infinity become NaN.

    >>> rounded_rows(torch.tensor([[896.0, -2.0, 0.0]]))[1].item()
    2.0
    """
    # 448 stands here as a number: torch.compile takes a global float for a variable, and fails inside `_Fp8Product`.
    precise = x.float()
    scales = precise.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 448.0
    return (precise / scales).clamp(-448.0, 448.0).to(FP8).contiguous(), scales


def product(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, kind: torch.dtype) -> Tensor:
    """Return the product of two FP8 matrices in type `kind`, [M, N], summed in float32 on a GPU's FP8 cores.

    Args:
        a: [M, K], rows contiguous.
        b: [K, N], columns contiguous.
        a_scales: [M, 1] float32, by which rows of the result are multiplied; or a number, if `b_scales` is one too.
        b_scales: [1, N] float32, by which its columns are multiplied; or a number.
        kind: bfloat16 on a GPU.
    """
    if a.device.type == "cpu":
        return emulated_product(a, b, a_scales, b_scales, kind)
    return torch._scaled_mm(a, b, a_scales, b_scales, out_dtype=kind, use_fast_accum=True)


def emulated_product(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, kind: torch.dtype) -> Tensor:
    """Compute `product` of the same FP8 numbers in float32, without hardware for it."""
    return (a.float() @ b.float() * a_scales * b_scales).to(kind)


def has_fp8(device: torch.device) -> bool:
    """Return whether a device multiplies FP8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ADA


def check_fp8(device: torch.device, dtype: str) -> None:
    """Check that a device multiplies FP8, and that the model computes in bf16.

    Raises:
        UserError: it does not.
    """
    if not has_fp8(device):
        what = f"{torch.cuda.get_device_name(device)} has none" if device.type == "cuda" else "the CPU has none"
        raise UserError(
            f"train.products is fp8, which needs a GPU with FP8 products (Ada, Hopper or newer), and {what}; set "
            "train.products to bf16"
        )
    if dtype != "bfloat16":
        raise UserError(f"train.products fp8 needs model.dtype bfloat16, not {dtype}")


def use_fp8(layers: nn.Module) -> int:
    """Replace each frozen linear layer inside decoder layers by its FP8 form, in place; return how many there are.

    An adapter's own matrices, which train, stay as they are.

    Raises:
        UserError: a layer's width is no multiple of 16, or its weights are still packed.
    """
    found = [
        (name, layer)
        for name, layer in layers.named_modules()
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad
    ]
    for name, layer in found:
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            size = f"{layer.out_features} x {layer.in_features}"
            raise UserError(f"train.products fp8 needs layers in multiples of 16, and {name} is {size}; set bf16")
        if not layer.weight.is_floating_point():
            raise UserError("train.products fp8 needs train.weights auto or dequantised, not packed")
        parent, _, child = name.rpartition(".")
        setattr(layers.get_submodule(parent), child, Fp8Linear(layer))
    return len(found)
