"""Generation's linear layers, whose weights are read in fewer bits: 4-bit, unpacked within the product, or FP8.

A decoding step of one block multiplies some 32 rows by every weight: its time is that of reading the weights. Larger
passes, over whole canvases or many blocks, are bound by arithmetic; FP8 is faster there too, 4 bits are not, so these
go through dequantised weights. An adapter stays beside the layer: merged, it would be rounded away with the weight.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn

from dreamtune.errors import UserError
from dreamtune.model.fp8 import MULTIPLE, Fp8Linear, has_fp8
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import dequantised
from dreamtune.settings.model import ModelConfig

NF4_ROWS = 64  # a pass over more rows is bound by arithmetic
GROUP = 64  # weights that share an NF4 scale


class Nf4Linear(nn.Module):
    """A 4-bit layer on a GPU, which unpacks its weight within the product where there are few rows.

    Args:
        layer: the 4-bit layer; its inputs are a multiple of 64.
        keep_dense: whether many rows pass through weights that are dequantised once, or dequantised in each pass.
    """

    codes: Tensor  # [out, in / 2] uint8, as bitsandbytes packs them
    absmax: Tensor  # [out, in / 64] float32
    table: Tensor  # [16] float32

    def __init__(self, layer: Linear4bit, keep_dense: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        codes, absmax, table = unpacked(layer)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("absmax", absmax, persistent=False)
        self.register_buffer("table", table, persistent=False)
        self.whole = _dense(layer) if keep_dense else layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., out] for an input [..., in], in the type of the input."""
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] > NF4_ROWS:
            whole: Tensor = self.whole(x)
            return whole
        halves = rows.unflatten(-1, (-1, 2)).movedim(-1, 0).contiguous()  # [2, M, in / 2]
        out = nf4_parts(halves, self.codes, self.absmax, self.table).sum(0)  # [M, out] float32
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


@torch.library.custom_op("dreamtune::nf4_parts", mutates_args=())
def nf4_parts(halves: Tensor, codes: Tensor, absmax: Tensor, table: Tensor) -> Tensor:
    """Return the product of few rows and a 4-bit weight, in parts to be added up: [parts, M, out] float32.

    Args:
        halves: [2, M, in / 2], the rows' even columns and their odd ones.
        codes, absmax, table: see `Nf4Linear`.
    """
    from dreamtune.model.nf4_kernel import launch  # Triton comes with torch on a GPU only

    parts: Tensor = launch(halves, codes, absmax, table)
    return parts


@nf4_parts.register_fake
def _(halves: Tensor, codes: Tensor, absmax: Tensor, table: Tensor) -> Tensor:
    from dreamtune.model.nf4_kernel import parts_of

    parts = parts_of(len(codes), codes.shape[1])[0]
    return halves.new_empty(parts, halves.shape[1], codes.shape[0], dtype=torch.float32)


def unpacked(layer: Linear4bit) -> tuple[Tensor, Tensor, Tensor]:
    """Return a 4-bit layer's codes [out, in / 2], its scales [out, in / 64] and the table [16] of what codes stand for.

    The first of a byte's two codes is its high half; a weight is table[code] · scale.
    """
    packed: Any = layer.weight
    state = packed.quant_state
    absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    codes = packed.data.view(layer.out_features, layer.in_features // 2)
    return codes, absmax.view(layer.out_features, -1).contiguous(), state.code.float()


def use_few_bits(model: Any, products: str, keep_dense: bool = True) -> None:
    """Let the linear layers of the decoder multiply by weights in fewer bits, in place; adapters stay as they are.

    On a CPU 4-bit layers already unpack their weights in every product.

    Args:
        model: with or without an adapter, which is not merged.
        products: "nf4" or "fp8", see the settings.
        keep_dense: for nf4, see `Nf4Linear`.

    Raises:
        UserError: a layer's dimensions do not suit the kernel.
    """
    layers = unwrap(model).model.layers
    for name, layer in list(layers.named_modules()):
        if not isinstance(layer, nn.Linear) or "lora_" in name:
            continue
        if products == "nf4" and layer.weight.device.type == "cpu":
            continue
        multiple = GROUP if products == "nf4" else MULTIPLE
        if layer.in_features % multiple or layer.out_features % MULTIPLE:
            size = f"{layer.out_features} x {layer.in_features}"
            raise UserError(
                f"generate.products {products} needs multiples of {multiple}, and {name} has {size}; use bf16"
            )
        parent, _, child = name.rpartition(".")
        few = Fp8Linear(layer, trains=False) if products == "fp8" else Nf4Linear(layer, keep_dense)  # type: ignore[arg-type]
        setattr(layers.get_submodule(parent), child, few.eval())


def check_products(products: str, config: ModelConfig, device: torch.device) -> None:
    """Check that model and device have the products that the settings name.

    Raises:
        UserError: they do not.
    """
    if products == "nf4" and config.quantization != "nf4":
        raise UserError(
            f"generate.products nf4 multiplies by 4-bit weights, and model.quantization is {config.quantization}; set "
            "it to nf4, or products to bf16"
        )
    if device.type == "cuda" and products != "bf16" and config.dtype != "bfloat16":
        raise UserError(f"generate.products {products} needs model.dtype bfloat16 on a GPU, not {config.dtype}")
    if device.type == "cuda" and products == "fp8" and not has_fp8(device):
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"generate.products fp8 needs a GPU with FP8 (Ada, Hopper or newer), not {name}; use bf16 or nf4"
        )


def _dense(layer: Linear4bit) -> nn.Linear:
    dense = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    dense.weight = nn.Parameter(dequantised(layer), requires_grad=False)
    dense.bias = layer.bias
    return dense
