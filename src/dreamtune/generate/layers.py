"""The decoder layers as generation runs them: each with its own stored keys and values, compiled on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch

from dreamtune.device.compiler import allow_variants


@dataclass
class Kept:
    """What generation keeps with a model from one call to the next, because it is costly to make again.

    Attributes:
        full_pass: the model as it was wrapped, and its captured full pass.
        cache: what a block cache was made for, and that cache.
    """

    full_pass: tuple[Any, Any] | None = None
    cache: tuple[Any, Any] | None = None


def prepare_for_generation(base: Any) -> Kept:
    """Hand each layer its own stored keys and values, on a GPU compile it; return what generation keeps with the model.

    The layers are prepared once, however often this is called.

    A block's pass is so short that the small kernels between the products, which the compiler joins, take as long as
    these. All layers share what is compiled: a layer's keys and values go by a name that is the same for all.
    """
    kept: Kept | None = getattr(base, "dreamtune_kept", None)
    if kept is not None:
        return kept
    base.dreamtune_kept = kept = Kept()
    allow_variants()
    for number, layer in enumerate(base.model.layers):
        plain = MethodType(type(layer).forward, layer)
        run = torch.compile(plain) if base.device.type == "cuda" else plain
        layer.forward = partial(_with_own_store, run, number)
    return kept


def _with_own_store(run: Callable[..., Any], number: int, *given: Any, stored: Any = None, **named: Any) -> Any:
    return run(*given, **named) if stored is None else run(*given, stored=stored.of_layer(number), **named)
