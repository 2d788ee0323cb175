"""How far an adapter moved: the norm of its update beside that of the frozen weights it is added to."""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dreamtune.model.adapter_format import layer_update
from dreamtune.model.fp8 import Fp8Linear
from dreamtune.model.nf4 import dequantised


@torch.no_grad()
def relative_update(model: nn.Module) -> float | None:
    """Return ‖D‖ / ‖W‖ over all layers with an adapter together, in Frobenius norms; None if no layer has one.

    W is a layer's frozen weight [out, in], and D the adapter's update of it: alpha / r · B A, of rsLoRA with sqrt(r),
    of DoRA see `adapter_format.dora_update`.

    Args:
        model: a PeftModel with one adapter.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        return None
    updates = sum(squared_update(layer) for layer in layers)
    return float((updates / sum(squared_norm(layer.get_base_layer()) for layer in layers)) ** 0.5)


def squared_update(layer: Any) -> float:
    """Return ‖D‖² of an adapter's update: of LoRA by the factors' Gram matrices [r, r], without D itself, [out, in].

    ‖B A‖² = tr(Aᵀ Bᵀ B A) is the sum of the products of the elements of Bᵀ B and A Aᵀ.
    """
    (adapter,) = layer.active_adapters
    if adapter in layer.lora_magnitude_vector:
        return float(layer_update(layer, frozen_weight(layer.get_base_layer())).square().sum(dtype=torch.float64))
    a, b = layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
    return float(layer.scaling[adapter] ** 2 * ((b.T @ b) * (a @ a.T)).sum().clamp(min=0.0))


def squared_norm(layer: Any) -> float:
    """Return the squared Frobenius norm of a frozen linear layer's weight, as it is multiplied with."""
    return float(torch.linalg.vector_norm(frozen_weight(layer), dtype=torch.float32)) ** 2


def frozen_weight(layer: Any) -> Tensor:
    """Return a frozen linear layer's weight [out, in], as it is multiplied with."""
    weight: Tensor = dequantised(layer) if isinstance(layer, Linear4bit) else layer.weight.detach()
    if isinstance(layer, Fp8Linear):
        weight = weight.float() * layer.out_scales
    return weight
