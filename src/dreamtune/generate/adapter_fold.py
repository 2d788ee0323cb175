"""Merge an adapter into dense weights in memory, layer by layer, where the weights' type keeps enough of the update.

bfloat16 has 8 significant bits: an update that is small beside the weight is mostly rounded away, and the merged
weights are then another model than the one that was trained. So the rounding is measured for each layer.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from dreamtune.model.adapter_format import layer_update, uses_dora
from dreamtune.model.rounding import TOLERANCE, add_rounded


@torch.no_grad()
def fold_where_exact(tuned: Any, tolerance: float = TOLERANCE) -> list[str]:
    """Merge the adapter, in place, into each layer where rounding costs little; return these layers' names.

    A layer with weight W and update D is merged if ‖round(W + D) − (W + D)‖ ≤ tolerance · ‖D‖, in Frobenius norms.
    Any other layer keeps its adapter beside the weight.

    Args:
        tuned: a PeftModel with one LoRA, rsLoRA or DoRA adapter, whose base layers are dense.
        tolerance: the share of the update's norm that rounding may take.
    """
    folded = []
    for name, layer in list(tuned.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        rounded, rounding = add_rounded(base.weight, layer_update(layer, base.weight))  # [out, in]
        if rounding.lost <= tolerance:
            base.weight = nn.Parameter(rounded, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(tuned.get_submodule(parent), child, base)
            folded.append(name)
    return folded


def cast_factors(tuned: Any, dtype: torch.dtype) -> Any:
    """Cast the LoRA factors that were not merged to `dtype`, the type of the layers' inputs; return the model.

    DoRA's stay float32: PEFT would compute the norms of its rows in `dtype`, whose rounding changes each row by more
    than a small adapter does.
    """
    if uses_dora(tuned):
        return tuned
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return tuned
