"""The decoder layers as a plan wants them run while training: compiled, or run again in the backward pass."""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dreamtune.device.compiler import allow_variants
from dreamtune.model.logits import unwrap
from dreamtune.train.micro_batch_plan import MicroBatchPlan


def prepare_layers(model: Any, plan: MicroBatchPlan) -> None:
    """Replace the layers' forward passes as `plan` says; may be called again with another plan.

    Passes without gradients (validation, canaries) stay as they are: they would be compiled once more, for little.
    Lengths are symbolic in what is compiled, so that windows of every size and all layers share it.
    """
    allow_variants()
    for number, layer in enumerate(unwrap(model).model.layers):
        plain = MethodType(type(layer).forward, layer)
        trained = torch.compile(plain, dynamic=True) if plan.compile else plain
        if number < plan.recompute_layers:
            trained = partial(checkpoint, trained, use_reentrant=False)
        layer.forward = _either(trained, plain)


def _either(trained: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: (trained if torch.is_grad_enabled() else plain)(*given, **named)
