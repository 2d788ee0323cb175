"""The decoder layers as they are run: compiled on a GPU, and in training some of them again in the backward pass."""

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
    Lengths are symbolic in what is compiled, so that windows of every size and all layers share it.
    """
    for number, layer in enumerate(unwrap(model).model.layers):
        plain = MethodType(type(layer).forward, layer)
        trained = torch.compile(plain, dynamic=True) if plan.compile else plain
        if number < plan.recompute_layers:
            trained = partial(checkpoint, trained, use_reentrant=False)
        layer.forward = _either(trained, plain)


def prepare_for_generation(base: Any) -> None:
    """Hand each layer its own stored keys and values; on a GPU compile it. Once for a model, however often called.

    A block's pass is so short that the small kernels between the products, which the compiler joins, take as long as
    these. All layers share what is compiled: a layer's keys and values go by a name that is the same for all.
    """
    if getattr(base, "dreamtune_generates", False):
        return
    base.dreamtune_generates = True
    for number, layer in enumerate(base.model.layers):
        plain = MethodType(type(layer).forward, layer)
        run = torch.compile(plain) if base.device.type == "cuda" else plain
        layer.forward = partial(_with_own_store, run, number)


def _with_own_store(run: Callable[..., Any], number: int, *given: Any, stored: Any = None, **named: Any) -> Any:
    return run(*given, **named) if stored is None else run(*given, stored=stored.of_layer(number), **named)


def _either(trained: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: (trained if torch.is_grad_enabled() else plain)(*given, **named)
