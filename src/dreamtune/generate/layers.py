"""The decoder layers as generation runs them: each with its own stored keys and values, compiled on a GPU."""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch

from dreamtune.device.compiler import allow_variants


def prepare_for_generation(base: Any) -> None:
    """Hand each layer its own stored keys and values; on a GPU compile it. Once for a model, however often called.

    A block's pass is so short that the small kernels between the products, which the compiler joins, take as long as
    these. All layers share what is compiled: a layer's keys and values go by a name that is the same for all.
    """
    if getattr(base, "dreamtune_generates", False):
        return
    base.dreamtune_generates = True
    allow_variants()
    for number, layer in enumerate(base.model.layers):
        plain = MethodType(type(layer).forward, layer)
        run = torch.compile(plain) if base.device.type == "cuda" else plain
        layer.forward = partial(_with_own_store, run, number)


def _with_own_store(run: Callable[..., Any], number: int, *given: Any, stored: Any = None, **named: Any) -> Any:
    return run(*given, **named) if stored is None else run(*given, stored=stored.of_layer(number), **named)
