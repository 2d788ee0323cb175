"""The decoder layers as a plan wants them run while training: compiled, or run again in the backward pass."""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dreamtune.model import unwrap
from dreamtune.pass_plan import PassPlan


def prepare_layers(model: Any, plan: PassPlan) -> None:
    """Replace the layers' forward passes as `plan` says; may be called again with another plan.

    Passes without gradients (validation, canaries) stay as they are: they would be compiled once more, for little.
    Compiled is once for the first length, which is all where rows are equally long, and when another comes, once more
    for all lengths; the layers share what is compiled.
    """
    for number, layer in enumerate(unwrap(model).model.layers):
        plain = MethodType(type(layer).forward, layer)
        trained = torch.compile(plain) if plan.compile else plain
        if number < plan.recompute_layers:
            trained = partial(checkpoint, trained, use_reentrant=False)
        layer.forward = _either(trained, plain)


def _either(trained: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: (trained if torch.is_grad_enabled() else plain)(*given, **named)
