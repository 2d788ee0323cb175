"""How a window is cut into forward passes, and what of a pass is kept or made twice: chosen from shape and free memory.

Nothing here changes the objective. Four things trade memory for time:

    micro_batch_tokens   tokens of one pass; small passes wait for kernel launches and unpack the weights more often
    recompute_layers     so many decoder layers keep their input alone and run again in the backward pass
                         (activation checkpointing: 0 is none, all is full, anything between is selective)
    weights              4-bit, unpacked at every use, or held dequantised (QLoRA's numbers to the bit, 3 x the memory)
    compile              torch.compile of each layer: fewer kernels and fewer stored intermediates, some 10 s once

`choose` takes the cheapest combination that fits by the estimates below; the rehearsal at the start of a run verifies
it, and a pass that does not fit after all is made smaller (`shrink`).
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.distributed.tensor import DTensor

from dreamtune.device.memory import GIB, free_gib
from dreamtune.errors import UserError
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import DENSE_BYTES
from dreamtune.objective.loss import HEAD_ROWS
from dreamtune.settings.train import TrainConfig

TOKENS = (8192, 4096, 2048, 1024, 512)  # of a pass on a GPU; beyond the first nothing is gained
CPU_TOKENS = 2048
WIDEST = 1.5  # windows of so many times the mean still take one pass
# In units of one token's forward pass (2 N FLOP), measured on an H200 in Dream 7B's shape:
UNPACKING = 1250.0  # unpacking all 4-bit weights once
LAUNCHING = 150.0  # what a pass costs before its first token
GATHERING = 2500.0  # gathering all weights from the processes' shares once (7.6e9 of them on two H100s)
# Multiples of a token's hidden and intermediate size that a layer keeps for its backward pass, in elements:
KEPT = {True: (8.5, 2.0), False: (16.0, 4.0)}  # compiled or not: (x hidden, x intermediate)
WORKING = 2.5  # what one layer needs besides while it runs, in multiples of what it keeps


@dataclass(frozen=True)
class MicroBatchPlan:
    """See the module's docstring."""

    micro_batch_tokens: int
    recompute_layers: int
    weights: str  # packed or dequantised
    compile: bool
    cut_tokens: int | None = None  # to which this process cuts its passes further, after its memory ran out

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def is_asked_for(self, train: TrainConfig) -> bool:
        """Return whether this plan is as `train` has it, where it has something to say."""
        return (
            train.micro_batch_tokens in (None, self.micro_batch_tokens)
            and train.recompute_layers in (None, self.recompute_layers)
            and train.weights in ("auto", self.weights)
            and train.compile in (None, self.compile)
        )

    def __str__(self) -> str:
        compiled = "compiled" if self.compile else "not compiled"
        return (
            f"{self.cut_tokens or self.micro_batch_tokens} tokens a pass, {self.recompute_layers} layers recomputed, "
            f"{self.weights} weights, layers {compiled}"
        )


@dataclass(frozen=True)
class Shape:
    """What memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    packed: int  # parameters of the layers that can be held in 4 bits or dequantised; 0 if none are quantised
    element: int  # bytes of a number of the model's type
    sharded: bool = False  # all weights are trained, each process with a share of them

    @classmethod
    def of(cls, model: nn.Module) -> "Shape":
        """Read it off a loaded model, wrapped or not."""
        base = unwrap(model)
        packed = sum(m.in_features * m.out_features for m in base.modules() if isinstance(m, Linear4bit))
        config, sharded = base.config, any(isinstance(parameter, DTensor) for parameter in base.parameters())
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            packed,
            config.dtype.itemsize,  # of the computation; shares are float32
            sharded,
        )


def choose(
    model: nn.Module,
    train: TrainConfig,
    device: torch.device,
    longest: int,
    window_tokens: float,
    besides_gib: float = 0.0,
) -> MicroBatchPlan:
    """Return the cheapest plan that fits into the free memory; what `train` sets is taken as it is.

    Args:
        model: just loaded, its weights still packed.
        longest: tokens of the longest document; a pass holds at least one.
        window_tokens: mean tokens of a window; larger passes have nothing to hold.
        besides_gib: what is not there yet and does not depend on the plan: gradients, the optimiser's state.

    Raises:
        UserError: nothing fits.
    """
    shape = Shape.of(model)
    if device.type != "cuda":
        small = shape.packed * shape.element <= DENSE_BYTES
        weights = train.weights if train.weights != "auto" else "dequantised" if small else "packed"
        tokens = train.micro_batch_tokens or CPU_TOKENS
        return MicroBatchPlan(tokens, min(train.recompute_layers or 0, shape.layers), weights, bool(train.compile))
    free = free_gib(device, train.memory_gib) - besides_gib
    plans = list(candidates(shape, train, longest, window_tokens))
    fitting = [plan for plan in plans if extra_gib(shape, plan, longest) <= free]
    if not fitting:
        least = min(extra_gib(shape, plan, longest) for plan in plans)
        raise UserError(
            f"the smallest plan needs {least + besides_gib:.1f} GiB beside the model, and {free + besides_gib:.1f} GiB "
            f"are free; lower data.max_tokens (the longest row has {longest} tokens), leave train.micro_batch_tokens, "
            "recompute_layers and weights to the plan, or take a larger GPU"
            + (", or more of them (train.gpus)" if train.finetuning == "full" else "")
        )
    return min(fitting, key=lambda plan: cost(shape, plan))


def agreed(plan: MicroBatchPlan, processes: int) -> MicroBatchPlan:
    """Return the first process's plan on all of them: they take turns at the passes of *one* split of a window.

    Whoever has less memory than it cuts its own passes further, in its rehearsal.
    """
    if processes == 1:
        return plan
    (values,) = broadcast_object_list([plan.to_json()])
    return MicroBatchPlan(**values)


def candidates(shape: Shape, train: TrainConfig, longest: int, window_tokens: float) -> Iterator[MicroBatchPlan]:
    """Yield every plan that the settings allow."""
    widest = math.ceil(WIDEST * window_tokens / 64) * 64
    tokens = {max(min(size, widest), longest) for size in TOKENS}
    weights = ("packed", "dequantised") if train.weights == "auto" and shape.packed else (train.weights,)
    kinds = ("packed",) if not shape.packed else weights
    asked = train.recompute_layers
    layers = range(shape.layers + 1) if asked is None else [min(asked, shape.layers)]
    for size in [train.micro_batch_tokens] if train.micro_batch_tokens else sorted(tokens):
        for kind in kinds:
            for count in layers:
                yield MicroBatchPlan(size, count, kind, train.compile is not False)


def cost(shape: Shape, plan: MicroBatchPlan) -> float:
    """Return the time of a token, in units of its forward pass; weights have gradients only where all are trained."""
    passes = (3 if shape.sharded else 2) + plan.recompute_layers / shape.layers
    unpacking = UNPACKING if shape.packed and plan.weights == "packed" else 0.0
    gathering = GATHERING if shape.sharded else 0.0
    return passes * (1 + (unpacking + gathering + LAUNCHING) / plan.micro_batch_tokens)


def extra_gib(shape: Shape, plan: MicroBatchPlan, longest: int) -> float:
    """Return what a plan needs at its peak beside the model as it was loaded, in GiB."""
    tokens = max(plan.micro_batch_tokens, longest)
    by_hidden, by_intermediate = KEPT[plan.compile]
    kept = tokens * shape.element * (by_hidden * shape.hidden + by_intermediate * shape.intermediate)
    inputs = tokens * shape.element * shape.hidden * plan.recompute_layers
    activations = kept * (shape.layers - plan.recompute_layers) + inputs + WORKING * kept
    head = HEAD_ROWS * shape.vocabulary * (4 * shape.element + 4)
    # 0.516 bytes a parameter: 4 bits, and a scale for every 64 in 8 bits
    weights = shape.packed * (shape.element - 0.516) if plan.weights == "dequantised" else 0.0
    return (activations + head + weights) / GIB


def shrink(plan: MicroBatchPlan, layers: int, largest: int, longest: int) -> MicroBatchPlan | None:
    """Return a plan that needs less memory: smaller passes first, then every layer recomputed; None if there is none.

    Args:
        layers: of the model.
        largest: tokens of the largest pass of the window that did not fit.
        longest: tokens of its longest document, which cannot be cut.
    """
    if largest > longest:
        return replace(plan, cut_tokens=max(largest // 2, longest))
    return replace(plan, recompute_layers=layers) if plan.recompute_layers < layers else None
