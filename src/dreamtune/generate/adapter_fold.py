"""Adding an adapter into dense weights in memory, layer by layer, where their type keeps enough of it.

bfloat16 has 8 bits: an update that is small beside the weight is mostly rounded away, and then the sum is another
model than the one that was trained. So it is measured.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

TOLERANCE = 0.05  # of the update's Frobenius norm


@torch.no_grad()
def fold_where_exact(tuned: Any, tolerance: float = TOLERANCE) -> list[str]:
    """Replace each adapted layer by its base layer with the update added, if that is exact enough; return their names.

    For a weight W and its update D that is ‖round(W + D) − (W + D)‖ ≤ tolerance · ‖D‖, of the layer as a whole; any
    other layer stays as it is. Changes `tuned` in place.

    Args:
        tuned: a PeftModel of one plain LoRA whose base layers are dense.
        tolerance: share of the update that rounding may take.
    """
    folded = []
    for name, layer in list(tuned.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        (adapter,) = layer.active_adapters
        update = _update(layer, adapter)  # [out, in] float32
        exact = base.weight.float() + update
        rounded = exact.to(base.weight.dtype)
        if (rounded.float() - exact).norm() <= tolerance * update.norm():
            base.weight = nn.Parameter(rounded, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(tuned.get_submodule(parent), child, base)
            folded.append(name)
    return folded


def cast_factors(tuned: Any, dtype: torch.dtype) -> Any:
    """Cast the factors of the adapter that are left to `dtype`, which the layers' inputs have; return the model."""
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return tuned


def _update(layer: Any, adapter: str) -> torch.Tensor:
    a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
    scale: float = layer.scaling[adapter]
    return scale * (b @ a)
