"""Where NaN or infinity enters a model: in which weight, or behind which layer.

`check_weights` runs once after loading. The search `first_nonfinite` runs only where a stage has met a number that is
not finite: it repeats the forward pass and looks at every layer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dreamtune.device.phases import phase
from dreamtune.errors import UserError

FINITE = "every weight and every layer's output is finite"


@phase("loading")
def check_weights(model: Any) -> Any:
    """Return the model, once it is known that no weight of it, or of its adapter, holds NaN or infinity.

    Raises:
        UserError: a weight does; it is named.
    """
    if name := nonfinite_weight(model):
        cure = "train the adapter again" if ".lora_" in name else "fetch or make the model again"
        raise UserError(f"the weight {name} is not finite, it holds NaN or infinity; {cure}")
    return model


def check_files(files: list[Path], device: str) -> None:
    """Check that no tensor of some safetensors files holds NaN or infinity, as they are before they are quantised.

    4-bit quantisation on a GPU has no code for NaN and makes a finite number of it.

    Args:
        files: of a checkpoint.
        device: on which the tensors are read, one at a time.

    Raises:
        UserError: a tensor does; it is named.
    """
    for file in files:
        with safe_open(file, "pt", device=device) as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                refuse_nonfinite(name, tensors.get_tensor(name), file, "fetch or make the model again")


def refuse_nonfinite(name: str, tensor: Tensor, where: Path, cure: str) -> None:
    """Raise a UserError if a tensor holds NaN or infinity.

    Args:
        name: of the weight.
        tensor: of any type and shape.
        where: file or folder that holds it.
        cure: what the user should do.
    """
    if tensor.is_floating_point() and not bool(_sum(tensor).isfinite()):
        raise UserError(f"the weight {name} in {where} is not finite, it holds NaN or infinity; {cure}")


def nonfinite_weight(model: nn.Module) -> str | None:
    """Return the name of the model's first weight that holds NaN or infinity; of a shard, if the weight is sharded."""
    names, sums = [], []
    for name, tensor in _weights(model):
        names.append(name)
        sums.append(_sum(tensor))
    flags = torch.stack(sums).isfinite().tolist() if sums else []  # waits for the GPU once
    return next((name for name, finite in zip(names, flags, strict=True) if not finite), None)


def first_nonfinite(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Return in words where NaN or infinity appears first: in a weight, or in a layer's output during `forward`.

    Args:
        model: with or without an adapter.
        forward: runs the model in the way that gave a number that is not finite.
    """
    if name := nonfinite_weight(model):
        return f"the weight {name} holds NaN or infinity"
    met: list[str] = []

    def look(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
            met.append(name)

    with ExitStack() as hooks, torch.no_grad():
        for name, layer in model.named_modules():
            if name:
                hooks.callback(layer.register_forward_hook(partial(look, plain_name(name))).remove)
        forward()
    return f"NaN or infinity first appears in the output of {met[0]}" if met else FINITE


def plain_name(name: str) -> str:
    """Return a weight's or a layer's name without what PEFT's wrappers add to it.

    >>> plain_name("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'model.layers.0.self_attn.q_proj.lora_A.weight'
    >>> plain_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight")
    'model.layers.0.self_attn.q_proj.weight'
    """
    for added in (".base_layer", ".default", "_fsdp_wrapped_module."):
        name = name.replace(added, "")
    return name.removeprefix("base_model.model.")


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every floating-point tensor that a model's weights consist of, by name; the scales of packed ones, too."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        tensors = [parameter] if state is None else [state.absmax, state.offset, getattr(state.state2, "absmax", None)]
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                yield plain_name(name), tensor


def _sum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor or of its local shard, a scalar that is finite if and only if all elements are.

    Unlike `isfinite` it needs no copy. Only numbers far larger than any weight could overflow it.
    """
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
    if tensor.dtype.itemsize == 1:  # FP8 has no sums
        local = local.float()
    return local.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of a module's output: a tensor, a tuple, or a mapping of transformers'."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
