"""4-bit NormalFloat (NF4) weights by bitsandbytes, on the CPU and the GPU through one path."""

from typing import Any

import bitsandbytes
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import BitsAndBytesConfig

DENSE_BYTES = 2 * 2**30  # on the CPU: the largest model that is held dequantised
ROOM_BYTES = 4 * 2**30  # on a GPU: the room that is left for activations, logits and stored keys and values


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the quantisation of QLoRA (arXiv 2305.14314): NF4, double quantised, computing in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head"],
    )


def forbid_repacking(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for its bf16 CPU kernel.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weights at the first forward pass in evaluation mode, and
    never undoes it. The kernel behind it rounds to bf16 and has no backward pass: training after a validation would
    silently lose its gradients, and results would depend on the processor.
    """
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def keep_dequantised(model: Any) -> Any:
    """Replace each 4-bit layer by an ordinary one that holds its dequantised weights: same numbers, more memory.

    A 4-bit layer dequantises its weights in every forward pass, which takes most of its time on small models and on
    the CPU. Works inside a PEFT wrapper too. Changes `model` in place and returns it.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            dense = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            dense.weight = nn.Parameter(dequantised(layer), requires_grad=False)
            dense.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, dense.train(layer.training))
    return model


def dequantised(layer: Linear4bit) -> torch.Tensor:
    """Return the weight [out, in] that the 4-bit layer multiplies with, in its computation type."""
    packed: Any = layer.weight
    weight = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
    return weight.to(layer.compute_dtype)


def has_room_for_dense(model: Any, parameters: int, dtype: torch.dtype) -> bool:
    """Return whether the 4-bit layers can be held dequantised: DENSE_BYTES bounds the model on the CPU; on a GPU they
    must fit into the free memory with ROOM_BYTES to spare.

    Args:
        parameters: number of the whole model's parameters.
        dtype: type of the dequantised weights.
    """
    if model.device.type == "cpu":
        return parameters * dtype.itemsize <= DENSE_BYTES
    return dequantised_bytes(model, dtype) + ROOM_BYTES <= torch.cuda.mem_get_info(model.device)[0]


def dequantised_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes that the weights of all 4-bit layers take once they are dequantised to `dtype`."""
    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    return sum(layer.in_features * layer.out_features for layer in layers) * dtype.itemsize
