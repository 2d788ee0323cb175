"""Merge an adapter into dense weights in memory, layer by layer, where the weights' type keeps enough of the update.

bfloat16 has 8 significant bits: an update that is small beside the weight is mostly rounded away, and the merged
weights are then another model than the one that was trained. So the rounding is measured for each layer.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from dreamtune.model.rounding import TOLERANCE, add_rounded


@torch.no_grad()
def fold_where_exact(tuned: Any, tolerance: float = TOLERANCE) -> list[str]:
    """Merge the adapter, in place, into each layer where rounding costs little; return these layers' names.

    A layer with weight W and update D is merged if ‖round(W + D) − (W + D)‖ ≤ tolerance · ‖D‖, in Frobenius norms.
    Any other layer keeps its adapter beside the weight.

    Args:
        tuned: a PeftModel with one plain LoRA adapter, whose base layers are dense.
        tolerance: the share of the update's norm that rounding may take.
    """
    folded = []
    for name, layer in list(tuned.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        (adapter,) = layer.active_adapters
        rounded, rounding = add_rounded(base.weight, _update(layer, adapter))  # [out, in]
        if rounding.lost <= tolerance:
            base.weight = nn.Parameter(rounded, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(tuned.get_submodule(parent), child, base)
            folded.append(name)
    return folded


def cast_factors(tuned: Any, dtype: torch.dtype) -> Any:
    """Cast the LoRA factors that were not merged to `dtype`, the type of the layers' inputs; return the model."""
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return tuned


def _update(layer: Any, adapter: str) -> torch.Tensor:
    """Return the LoRA update alpha / r · B A, [out, in] float32."""
    a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
    scale: float = layer.scaling[adapter]
    return scale * (b @ a)
