"""The decoder layers as generation runs them: each with its own layer of a KV cache, compiled on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch

from dreamtune.device.compiler import allow_variants


@dataclass
class Kept:
    """Objects that generation keeps with a model from one call to the next, because they are costly to make again.

    Attributes:
        full_pass: the wrapped model (its adapter on or off), and the function captured for its full forward pass.
        cache: the arguments a block cache was made with, and that cache.
    """

    full_pass: tuple[Any, Any] | None = None
    cache: tuple[Any, Any] | None = None


def prepare_for_generation(base: Any) -> Kept:
    """Give each decoder layer its own layer of a KV cache, and compile it on a GPU; return the kept objects.

    A model is prepared once, however often this is called. Afterwards its layers take a keyword `stored`, an object
    whose `of_layer(number)` gives that layer's keys and values.

    A block's forward pass is so short that the small kernels between the matrix products, which the compiler fuses,
    take as long as the products. All layers share the compiled code, because each receives its keys and values under
    the same name.
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
    """Run a decoder layer, after replacing the whole cache among its arguments by this layer of it."""
    return run(*given, **named) if stored is None else run(*given, stored=stored.of_layer(number), **named)
