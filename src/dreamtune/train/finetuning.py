"""The two kinds of fine-tuning: their interface, and the LoRA kind, of which every process holds a full copy.

`full_finetuning` has the other kind: it trains the whole model, sharded over the processes by FSDP.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, reduce
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dreamtune.canaries.window import starts_from_base
from dreamtune.checks import Check
from dreamtune.device.memory import GIB
from dreamtune.model.facts import facts_of
from dreamtune.model.fp8 import Fp8Linear
from dreamtune.model.loading import attach_lora
from dreamtune.model.logits import unwrap
from dreamtune.model.new_row import KEY, row_to_save
from dreamtune.model.nonfinite import plain_name
from dreamtune.objective.packing import Batch
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.checkpoint import ADAPTER, Checkpoint, save_adapter
from dreamtune.train.graphs import gradients_in_place
from dreamtune.train.windows import Share

FINGERPRINTED = 2**24  # elements of a weight that are held in float64 at once


class Finetuning(ABC):
    """Interface of the two kinds of fine-tuning.

    Methods marked *collective* must be called by every process; if one does not call, the others deadlock.
    """

    model: Any  # the model with what is trained, ready for forward passes

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained: all that require a gradient."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @abstractmethod
    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Return the context manager (autocast or none) in which a forward pass runs."""

    @abstractmethod
    def add_up(self, sums: Tensor) -> None:
        """Sum the gradients and `sums` over the processes, in place. Collective.

        Args:
            sums: [n] float32, a process's own sums over its micro-batches of the window.
        """

    @property
    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that training is to change, by name; also one that has no gradient, by mistake."""

    def without_adapter(self) -> list[str]:
        """Return the names of modules that training is to change but has no weights for."""
        return []

    def gradient_norms(self) -> Tensor:
        """Return the norm of the gradient of each weight of `trained`, [weights]; 0 where there is none. Collective."""
        weights = list(self.trained.values())
        if all(weight.grad is not None for weight in weights):
            norms: Any = torch._foreach_norm([weight.grad for weight in weights])  # type: ignore[misc]
            return torch.stack(norms)
        return torch.stack([p.new_zeros(()) if p.grad is None else p.grad.norm() for p in weights])

    def clip(self, max_norm: float, norms: Tensor) -> Tensor:
        """Scale the gradients down to a norm of at most `max_norm`; return their norm before that, a scalar.

        Args:
            max_norm: of all gradients together.
            norms: the `gradient_norms` of these gradients.
        """
        norm = torch.linalg.vector_norm(norms)
        nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        return norm

    def fingerprints(self) -> Tensor:
        """Return the sum and the sum of squares of each weight of `trained`, [weights, 2] float64. Collective.

        A weight of which both stay the same has not moved.
        """
        return torch.stack([fingerprint(parameter) for parameter in self.trained.values()])

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights by name; full fine-tuning returns {} on all but the first process. Collective."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the whole state of the optimiser; only the first process may use it. Collective."""
        return optimizer.state_dict()

    @abstractmethod
    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimiser back as a checkpoint holds them, bit for bit. Collective.

        Args:
            found: the checkpoint on the first process, None on the others.
            optimizer: receives its state.
        """

    @abstractmethod
    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """Write the result of `weights()` into a checkpoint's folder."""

    @abstractmethod
    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """Write the result of `weights()` as the output of the finished run: OUT/adapter or OUT/model."""

    @abstractmethod
    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """Return the canary's check that the model equals the base before the first step. Collective.

        Args:
            batches: micro-batches on which hidden states may be compared.
        """


class LoraFinetuning(Finetuning):
    """Trains an adapter on a frozen base (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314, if the base is 4-bit).

    Args:
        loaded: the base model; PEFT wraps it.
        train: gives the adapter's shape and the seed of its first weights.
        base: settings of the base model.
        share: this process's.
    """

    def __init__(self, loaded: Any, train: TrainConfig, base: ModelConfig, share: Share):
        self.model = attach_lora(loaded, train.lora, train.seed)
        self.base, self.share, self.lora = base, share, train.lora

    @cached_property  # walking through the modules of a model takes longer than the step of a small one
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained: all that require a gradient."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @cached_property
    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's weights, by name."""
        found = self.model.named_parameters()
        return {plain_name(name): parameter for name, parameter in found if ".lora_" in name}

    def without_adapter(self) -> list[str]:
        """Return the names of the linear layers that `lora.target_modules` names and that have no adapter."""
        adapted = tuple(name for name, module in self.model.named_modules() if isinstance(module, LoraLayer))
        return [
            plain_name(name)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear | Fp8Linear)
            and is_target(name, self.lora)
            and not name.startswith(tuple(f"{inside}." for inside in adapted))
            and name not in adapted
        ]

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Return bf16 autocast for a bf16 model on a GPU, where the float32 adapter shall multiply in bf16 too."""
        wanted = self.share.device.type == "cuda" and self.base.dtype == "bfloat16"
        return torch.autocast("cuda", torch.bfloat16) if wanted else nullcontext()

    def add_up(self, sums: Tensor) -> None:
        """Sum the gradients and `sums` over the processes, in one all-reduce. Collective.

        Each loss is already divided by the response tokens of the *whole* window, so the sum is the window's gradient.
        DistributedDataParallel would average micro-batches instead, whatever their numbers of tokens.
        """
        if self.share.processes == 1:
            return
        tensors = [sums, *gradients_in_place(self.parameters)]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        added = reduce(flat, "sum").split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [total.view_as(tensor) for tensor, total in zip(tensors, added, strict=True)])

    def weights(self) -> dict[str, Tensor]:
        """Return the adapter's weights; every process holds a full copy.

        The row of a new mask token, which is not trained, stands among them.
        """
        return get_peft_model_state_dict(self.model, save_embedding_layers=False) | row_to_save(unwrap(self.model))

    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """Broadcast the first process's checkpoint, some ten megabytes, and load it on every process. Collective."""
        if self.share.processes > 1:
            [found] = broadcast_object_list([found])
        assert found is not None
        set_peft_model_state_dict(self.model, {key: held for key, held in found.weights.items() if key != KEY})
        optimizer.load_state_dict(found.optimizer)

    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """Write the adapter to CHECKPOINT/adapter in PEFT's format."""
        row = facts_of(unwrap(self.model).config).new_row
        save_adapter(weights, self.model.peft_config["default"], checkpoint / ADAPTER, self.base, row)

    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """Write the adapter to OUT/adapter in PEFT's format."""
        self.write_weights(weights, out)

    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """Return the check that the adapter adds nothing yet: hidden states with and without it are the same bits."""
        return starts_from_base(self.model, batches)


def is_target(name: str, lora: LoraSettings) -> bool:
    """Return whether `lora.target_modules` names a linear layer, given by its full name; the head is never one.

    >>> q_proj = LoraSettings(target_modules=["q_proj"])
    >>> is_target("model.layers.0.self_attn.q_proj", q_proj), is_target("model.layers.0.mlp.up_proj", q_proj)
    (True, False)
    """
    last = name.rpartition(".")[2]
    return last != "lm_head" and (lora.target_modules == ["all-linear"] or last in lora.target_modules)


def adapter_gib(base: Any, train: TrainConfig) -> float:
    """Return the GiB that an adapter will take, whatever the plan: weights and gradients in float32, AdamW's moments.

    Besides, copies of the weights in the model's type, and their gradients, see `lora.folded`.

    Args:
        base: the model that it will be put on.
        train: gives the adapter's shape and the optimiser.
    """
    layers = (
        layer for name, layer in base.named_modules() if isinstance(layer, nn.Linear) and is_target(name, train.lora)
    )
    lora = train.lora
    magnitudes = 1 if lora.variant == "dora" else 0  # one number for each row of a weight
    sizes = ((layer.in_features, layer.out_features) for layer in layers)
    factors = sum(lora.rank * (inputs + outputs) + magnitudes * outputs for inputs, outputs in sizes)
    exact = 16 if train.optimizer == "adamw" else 10  # the moments of the other have 8 bits each
    return factors * (exact + 2 * base.config.dtype.itemsize) / GIB


def fingerprint(weight: Tensor) -> Tensor:
    """Return the sum and the sum of squares of a weight, [2] float64, without a float64 copy of all of it."""
    found = torch.zeros(2, dtype=torch.float64, device=weight.device)
    for part in weight.detach().flatten().split(FINGERPRINTED):
        precise = part.double()
        found += torch.stack([precise.sum(), precise.square().sum()])
    return found
