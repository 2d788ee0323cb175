"""How decoder layers run in training, by the plan: compiled, and with activation checkpointing."""

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from dreamtune.device.compiler import set_compiler
from dreamtune.lora.folded import Folded, copy_adapters, stack_matrices
from dreamtune.lora.joined import join, layer_forward
from dreamtune.model.adapter_format import uses_dora
from dreamtune.model.logits import unwrap
from dreamtune.train.micro_batch_plan import MicroBatchPlan


def prepare_layers(model: Any, plan: MicroBatchPlan, shared_dropout: bool = False) -> None:
    """Replace the forward methods of a model's decoder layers as `plan` says; may be called again with another plan.

    Forward passes without gradients (validation, canaries) keep the original methods: they would need a second
    compilation that saves little. Compiled code has symbolic lengths, so that all layers and all lengths share it.

    Args:
        model: with an adapter, or fully fine-tuned. DoRA runs through PEFT's own layers, as full fine-tuning does
            through transformers': its outputs are scaled by row, which the joined products do not do.
        plan: by which it runs.
        shared_dropout: adapters that share an input also share its dropout, see `joined.products`.
    """
    base, adapted = unwrap(model), isinstance(model, PeftModel) and not uses_dora(model)
    if plan.compile or base.device.type == "cuda":  # a GPU compiles the head's loss in any case
        set_compiler()
    folded: list[Folded] = []
    last = len(base.model.layers) - 1
    for number, layer in enumerate(base.model.layers):
        plain = MethodType(type(layer).forward, layer)
        trained: Callable[..., Any] = plain
        if adapted:
            folded += join(layer, queries_apart=number == last and not base.config.is_causal)
            trained = MethodType(layer_forward, layer)
        if plan.compile:
            trained = torch.compile(trained, dynamic=True)
        if plan.compile and number == 0:
            trained = partial(_with_gradient, trained)
        if number < plan.recompute_layers:
            trained = partial(checkpoint, trained, use_reentrant=False)
        if adapted and shared_dropout:
            trained = partial(trained, shared_dropout=True)
        layer.forward = _either(trained, plain, last=number == last)
    if plan.graphs:
        stack_matrices(folded)
    if adapted and not hasattr(base, "dreamtune_rows"):  # at the first call
        base.model.register_forward_pre_hook(partial(_copy_adapters, folded))
        if base.device.type == "cuda":
            torch.cuda.empty_cache()  # of the frozen weights' old places
    base.dreamtune_rows = adapted


def _copy_adapters(folded: Sequence[Folded], *_: Any) -> None:
    if torch.is_grad_enabled():
        copy_adapters(folded)


def _with_gradient(trained: Callable[..., Any], hidden: torch.Tensor, *given: Any, **named: Any) -> Any:
    """Run the first layer on an input that has a gradient, as all others have: they share one compiled graph.

    Under a frozen embedding its input has none. Nothing reads the gradient, whose products are those of q, k and v in
    one layer, a thousandth of a step; a second graph costs a cold compiler as much as the first.
    """
    return trained(hidden if hidden.requires_grad else hidden.detach().requires_grad_(), *given, **named)


def _either(trained: Callable[..., Any], plain: Callable[..., Any], last: bool) -> Callable[..., Any]:
    """Return a function that calls `trained` while gradients are recorded, and `plain` otherwise.

    Only the `last` layer is told which rows are wanted.
    """

    def forward(*given: Any, rows: torch.Tensor | None = None, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **named)
        return trained(*given, rows=rows, **named) if last and rows is not None else trained(*given, **named)

    return forward
