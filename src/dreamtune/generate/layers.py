"""The decoder layers as generation runs them: each with its own layer of a KV cache, compiled on a GPU."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch

from dreamtune.device.compiler import set_compiler
from dreamtune.settings.generate import GenerateConfig

COMPILE_S = 40.0  # of a layer for whole canvases and for blocks, in full batches and in others
SAVED_MS = 0.15  # of a layer in a block's forward pass: the kernels between the products take as long as these


@dataclass
class Kept:
    """Objects that generation keeps with a model from one call to the next, because they are costly to make again.

    Attributes:
        full_pass: the wrapped model (its adapter on or off), and the function captured for its full forward pass.
        cache: the arguments a block cache was made with, and that cache.
    """

    full_pass: tuple[Any, Any] | None = None
    cache: tuple[Any, Any] | None = None


def pays_to_compile(requests: int, settings: GenerateConfig, layers: int) -> bool:
    """Return whether compiled layers save more time than compiling takes, by the forward passes that are to come.

    12 answers of 256 tokens in one batch, and 100 of 2,048 tokens in batches of 8, with a model of 28 layers:

    >>> pays_to_compile(12, GenerateConfig(max_new_tokens=256, batch_size=12), layers=28)
    False
    >>> pays_to_compile(100, GenerateConfig(max_new_tokens=2048, batch_size=8), layers=28)
    True
    """
    passes = math.ceil(requests / settings.batch_size) * (settings.steps or settings.max_new_tokens)
    return passes * layers * SAVED_MS / 1000 > COMPILE_S


def prepare_for_generation(base: Any, compiled: bool = True) -> Kept:
    """Give each decoder layer its own layer of a KV cache; on a GPU compile it if `compiled`; return the kept objects.

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
    if compiles := compiled and base.device.type == "cuda":
        set_compiler()
    for number, layer in enumerate(base.model.layers):
        plain = MethodType(type(layer).forward, layer)
        run = torch.compile(plain) if compiles else plain
        layer.forward = partial(_with_own_store, run, number)
    return kept


def _with_own_store(run: Callable[..., Any], number: int, *given: Any, stored: Any = None, **named: Any) -> Any:
    """Run a decoder layer, after replacing the whole cache among its arguments by this layer of it."""
    return run(*given, **named) if stored is None else run(*given, stored=stored.of_layer(number), **named)
