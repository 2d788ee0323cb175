"""The plan of micro-batches: their size, activation checkpointing and how weights are held, for the free memory.

Nothing here changes the objective. Five settings trade memory for time:

    micro_batch_tokens   tokens of a micro-batch; small ones wait for kernel launches and unpack the weights more often
    recompute_layers     number of decoder layers with activation checkpointing: they keep only their input, and run
                         again in the backward pass (0 is none, all is full, anything between is selective)
    weights              packed (4-bit, unpacked at every use) or dequantised (the same numbers, four times the memory);
                         FP8 weights (`train.products`) count as dequantised
    compile              torch.compile of each layer: fewer kernels and fewer stored intermediates, a minute once
    graphs               CUDA graphs of whole micro-batches, where launching kernels takes longer than running them:
                         small models; they keep the activations a second time

`choose` takes the cheapest combination that fits by the estimates below. A rehearsal at the start of the run verifies
it, and a micro-batch that does not fit after all is made smaller (`shrink`).
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
from dreamtune.model.attention import packs
from dreamtune.model.logits import unwrap
from dreamtune.model.nf4 import DENSE_BYTES
from dreamtune.objective.loss import HEAD_ROWS
from dreamtune.settings.train import TrainConfig

TOKENS = (8192, 4096, 2048, 1024, 512)  # sizes of a micro-batch on a GPU; above the first nothing is gained
CPU_TOKENS = 2048
WINDOW_SPREAD = 1.5  # a micro-batch may be as large as a window of this many times the mean; larger would stay empty
# Times in units of one token's forward pass (2 N FLOP), measured on an H200 in Dream 7B's shape:
UNPACKING = 1250.0  # unpacking all 4-bit weights once
LAUNCHING = 150.0  # launching the kernels of a micro-batch, whatever its size
GATHERING = 2500.0  # gathering all weights from their FSDP shards once (7.6e9 weights on two H100s)
# Elements that a layer keeps of a token for its backward pass, in multiples of the hidden and intermediate size:
KEPT = {True: (8.5, 2.0), False: (16.0, 4.0)}  # compiled or not: (x hidden, x intermediate)
LAUNCH_S = 2e-3  # for all kernels of one layer, forward and backward (an adapter on each product)
FLOP_PER_S = 3e14  # of a small model's products
WORKING = 2.5  # memory of the one layer that is running, in multiples of what it keeps


@dataclass(frozen=True)
class MicroBatchPlan:
    """How windows are cut into micro-batches and how these run; the module's docstring explains the settings."""

    micro_batch_tokens: int
    recompute_layers: int
    weights: str  # packed or dequantised
    compile: bool
    graphs: bool = False
    cut_tokens: int | None = None  # to which this process cuts its micro-batches further, once its memory ran out

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `MicroBatchPlan(**values)` restores the plan."""
        return asdict(self)

    def is_asked_for(self, train: TrainConfig) -> bool:
        """Return whether the plan follows every setting that `train` does not leave to it (None or "auto")."""
        return (
            train.micro_batch_tokens in (None, self.micro_batch_tokens)
            and train.recompute_layers in (None, self.recompute_layers)
            and train.weights in ("auto", self.weights)
            and train.compile in (None, self.compile)
            and train.graphs in (None, self.graphs)
        )

    def __str__(self) -> str:
        compiled = "compiled" if self.compile else "not compiled"
        return (
            f"{self.cut_tokens or self.micro_batch_tokens} tokens a micro-batch, {self.recompute_layers} layers "
            f"recomputed, {self.weights} weights, layers {compiled}{', CUDA graphs' if self.graphs else ''}"
        )


@dataclass(frozen=True)
class Shape:
    """The sizes of a model on which its memory depends."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    packed: int  # parameters of the 4-bit layers, which can be held packed or dequantised; 0 if none are quantised
    element: int  # bytes of a number in the model's type
    sharded: bool = False  # full fine-tuning under FSDP
    packs: bool = False  # FlashAttention takes documents of different lengths without the host's help

    @classmethod
    def of(cls, model: nn.Module) -> "Shape":
        """Return the shape of a loaded model, wrapped or not."""
        base = unwrap(model)
        packed = sum(m.in_features * m.out_features for m in base.modules() if isinstance(m, Linear4bit))
        config, sharded = base.config, any(isinstance(parameter, DTensor) for parameter in base.parameters())
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            packed,
            config.dtype.itemsize,  # of the computation; FSDP shards are float32
            sharded,
            base.device.type == "cuda" and packs(base),
        )


def choose(
    model: nn.Module,
    train: TrainConfig,
    device: torch.device,
    longest: int,
    window_tokens: float,
    fixed_gib: float = 0.0,
) -> MicroBatchPlan:
    """Return the cheapest plan that fits into the free memory and follows the settings in `train`.

    Args:
        model: just loaded, its weights still packed.
        train: gives plan settings and `memory_gib`; None and "auto" leave a setting to the plan.
        device: of the model. On a CPU nothing is weighed: the plan has fixed values.
        longest: tokens of the longest document; a micro-batch holds at least one document.
        window_tokens: mean tokens of a process's share of a window; a larger micro-batch could not be filled.
        fixed_gib: memory that will be allocated whatever the plan: an adapter, gradients, the optimiser's state.

    Raises:
        UserError: no plan fits.
    """
    shape = Shape.of(model)
    if device.type != "cuda":
        small = shape.packed * shape.element <= DENSE_BYTES
        dense = small or train.products == "fp8"
        weights = train.weights if train.weights != "auto" else "dequantised" if dense else "packed"
        tokens = train.micro_batch_tokens or CPU_TOKENS
        plan = MicroBatchPlan(tokens, min(train.recompute_layers or 0, shape.layers), weights, bool(train.compile))
        return replace(plan, graphs=takes_graphs(shape, plan, train, 0.0, window_tokens))
    free = free_gib(device, train.memory_gib) - fixed_gib
    plans = list(candidates(shape, train, longest, window_tokens))
    fitting = [plan for plan in plans if extra_gib(shape, plan, longest) <= free]
    if not fitting:
        least = min(extra_gib(shape, plan, longest) for plan in plans)
        raise UserError(
            f"the smallest plan needs {least + fixed_gib:.1f} GiB beside the model, and {free + fixed_gib:.1f} GiB "
            f"are free; lower data.max_tokens (the longest row has {longest} tokens), leave train.micro_batch_tokens, "
            "recompute_layers and weights to the plan, or take a larger GPU"
            + (", or more of them (train.gpus)" if train.finetuning == "full" else "")
        )
    best = min(fitting, key=lambda plan: cost(shape, plan))
    left = free - extra_gib(shape, best, longest)
    return replace(best, graphs=takes_graphs(shape, best, train, left, window_tokens))


def broadcast_plan(plan: MicroBatchPlan, processes: int) -> MicroBatchPlan:
    """Return the first process's plan on every process. Collective.

    All processes must split a window alike, since they take turns at its micro-batches. A process with less memory
    cuts its own micro-batches further, in its rehearsal.

    Args:
        plan: this process's.
        processes: their number.
    """
    if processes == 1:
        return plan
    (values,) = broadcast_object_list([plan.to_json()])
    return MicroBatchPlan(**values)


def candidates(shape: Shape, train: TrainConfig, longest: int, window_tokens: float) -> Iterator[MicroBatchPlan]:
    """Yield every plan that the settings in `train` allow; see `choose` for the arguments."""
    largest = math.ceil(WINDOW_SPREAD * window_tokens / 64) * 64
    tokens = {max(min(size, largest), longest) for size in TOKENS}
    # FP8 weights are made of dequantised ones, and take the same memory: each is held twice.
    free = ("dequantised",) if train.products == "fp8" else ("packed", "dequantised")
    kinds = ("packed",) if not shape.packed else free if train.weights == "auto" else (train.weights,)
    asked = train.recompute_layers
    layers = range(shape.layers + 1) if asked is None else [min(asked, shape.layers)]
    for size in [train.micro_batch_tokens] if train.micro_batch_tokens else sorted(tokens):
        for kind in kinds:
            for count in layers:
                yield MicroBatchPlan(size, count, kind, train.compile is not False)


def cost(shape: Shape, plan: MicroBatchPlan) -> float:
    """Return the estimated time of a token, in units of its forward pass.

    A backward pass costs one unit for the gradients of activations, and in full fine-tuning another for those of the
    weights; activation checkpointing runs some of the forward pass again.

    >>> shape = Shape(layers=28, hidden=3584, intermediate=18944, vocabulary=152064, packed=6_525_288_448, element=2)
    >>> sizes = {"packed": 1024, "dequantised": 8192}
    >>> [round(cost(shape, MicroBatchPlan(size, 0, kind, True)), 2) for kind, size in sizes.items()]
    [4.73, 2.04]
    """
    passes = (3 if shape.sharded else 2) + plan.recompute_layers / shape.layers
    unpacking = UNPACKING if shape.packed and plan.weights == "packed" else 0.0
    gathering = GATHERING if shape.sharded else 0.0
    return passes * (1 + (unpacking + gathering + LAUNCHING) / plan.micro_batch_tokens)


def extra_gib(shape: Shape, plan: MicroBatchPlan, longest: int) -> float:
    """Return the GiB that a plan needs at its peak, beside the model as it was loaded.

    These are stored activations, the head's logits and, if weights are held dequantised, their growth.

    Args:
        longest: tokens of the longest document, which a micro-batch must hold whatever its budget.

    Activation checkpointing of all 28 layers saves most of what 8,192 tokens of Dream 7B keep:

    >>> shape = Shape(layers=28, hidden=3584, intermediate=18944, vocabulary=152064, packed=6_525_288_448, element=2)
    >>> [round(extra_gib(shape, MicroBatchPlan(8192, layers, "packed", True), 2048), 1) for layers in (0, 28)]
    [32.7, 5.0]
    """
    tokens = max(plan.micro_batch_tokens, longest)
    by_hidden, by_intermediate = KEPT[plan.compile]
    kept = tokens * shape.element * (by_hidden * shape.hidden + by_intermediate * shape.intermediate)
    inputs = tokens * shape.element * shape.hidden * plan.recompute_layers
    activations = kept * (shape.layers - plan.recompute_layers) + inputs + WORKING * kept
    head = HEAD_ROWS * shape.vocabulary * (4 * shape.element + 4)
    # A packed parameter takes 0.516 bytes: 4 bits, and its part of an 8-bit scale for every 64 parameters.
    weights = shape.packed * (shape.element - 0.516) if plan.weights == "dequantised" else 0.0
    return (activations + head + weights) / GIB


def takes_graphs(shape: Shape, plan: MicroBatchPlan, train: TrainConfig, left_gib: float, window_tokens: float) -> bool:
    """Return whether micro-batches become CUDA graphs: as `train.graphs` says, or where they pay off and fit.

    Args:
        shape: of the model.
        plan: by which it runs otherwise.
        train: its settings.
        left_gib: GiB that the plan leaves free.
        window_tokens: mean tokens of a process's share of a window.

    Raises:
        UserError: graphs are asked for, and the model or its plan cannot have them.
    """
    reasons = {
        "full fine-tuning gathers its weights in every step": shape.sharded,
        f"{plan.recompute_layers} layers are recomputed (train.recompute_layers 0)": plan.recompute_layers > 0,
        "DoRA runs through PEFT's own layers": train.lora.variant == "dora",
        "they need a GPU with FlashAttention, and model.dtype bfloat16": not shape.packs,
    }
    against = next((reason for reason, holds in reasons.items() if holds), None)
    if train.graphs and against:
        raise UserError(f"train.graphs is true, and micro-batches cannot be CUDA graphs: {against}; set it to null")
    if train.graphs is not None or against:
        return bool(train.graphs)
    # The graphs' memory of activations is their own; the weights are the same.
    fits = extra_gib(replace(shape, packed=0), plan, plan.micro_batch_tokens) <= left_gib
    return fits and launching_binds(shape, min(plan.micro_batch_tokens, window_tokens))


def launching_binds(shape: Shape, tokens: float) -> bool:
    """Return whether a GPU runs a layer's kernels, forward and backward, faster than the CPU launches them.

    SmolLM2-135M with 32 documents of GSM8K, and Dream 7B with 8 rows of 1,024 tokens:

    >>> small = Shape(layers=30, hidden=576, intermediate=1536, vocabulary=49152, packed=0, element=2)
    >>> large = Shape(layers=28, hidden=3584, intermediate=18944, vocabulary=152064, packed=0, element=2)
    >>> launching_binds(small, 5700), launching_binds(large, 8192)
    (True, False)
    """
    parameters = 4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate
    return 4 * parameters * tokens / FLOP_PER_S < LAUNCH_S


def shrink(plan: MicroBatchPlan, layers: int, largest: int, longest: int) -> MicroBatchPlan | None:
    """Return a plan that needs less memory, or None if there is none.

    Micro-batches are halved first; once each holds a single document, every layer gets activation checkpointing.

    Args:
        plan: the plan that did not fit.
        layers: number of the model's decoder layers.
        largest: tokens of the largest micro-batch that ran under it.
        longest: tokens of the longest document in there, which cannot be cut.

    >>> plan = MicroBatchPlan(4096, recompute_layers=0, weights="packed", compile=True)
    >>> plan = shrink(plan, layers=28, largest=3000, longest=2000)
    >>> plan.cut_tokens, plan.recompute_layers
    (2000, 0)
    >>> plan = shrink(plan, layers=28, largest=2000, longest=2000)
    >>> plan.cut_tokens, plan.recompute_layers
    (2000, 28)
    >>> shrink(plan, layers=28, largest=2000, longest=2000) is None
    True
    """
    if largest > longest:
        return replace(plan, cut_tokens=max(largest // 2, longest))
    return replace(plan, recompute_layers=layers) if plan.recompute_layers < layers else None
