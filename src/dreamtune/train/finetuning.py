"""What a run trains, and how its processes share it: here an adapter, which each of them holds whole.

`full_finetuning` has the other kind: all weights, each process with a share of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, reduce
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from dreamtune.canaries.window import starts_from_base
from dreamtune.checks import Check
from dreamtune.model.loading import attach_lora
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.checkpoint import ADAPTER, Checkpoint, save_adapter
from dreamtune.train.windows import Share


class Finetuning(ABC):
    """Both kinds. What is said to be asked of all processes together would wait for ever for one that does not ask."""

    model: Any

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @abstractmethod
    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Return the context of forward and backward passes."""

    @abstractmethod
    def add_up(self, sums: Tensor) -> None:
        """Add up `sums`, and the gradients, over the processes, in place. Asked of all of them together."""

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm of `max_norm`; return the norm before, a scalar."""
        return nn.utils.clip_grad_norm_(self.parameters, max_norm)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return what is trained, on the first process ({} on others). Asked of all processes together."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the whole state of the optimiser, on the first process. Asked of all processes together."""
        return optimizer.state_dict()

    @abstractmethod
    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimiser back, bit for bit; only the first process has a checkpoint to give."""

    @abstractmethod
    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """Write `weights` into the folder of a checkpoint."""

    @abstractmethod
    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """Write what the run is made for."""

    @abstractmethod
    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """Judge whether the model is still the base, before the first step. Asked of all processes together."""


class LoraFinetuning(Finetuning):
    """An adapter on a frozen base (LoRA; QLoRA where the base is 4-bit).

    Args:
        loaded: the base model; it is wrapped.
    """

    def __init__(self, loaded: Any, train: TrainConfig, base: ModelConfig, share: Share):
        self.model = attach_lora(loaded, train.lora, train.seed)
        self.base, self.share = base, share

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """On a GPU a bf16 model's adapter, whose weights are float32, multiplies in bf16 too."""
        wanted = self.share.device.type == "cuda" and self.base.dtype == "bfloat16"
        return torch.autocast("cuda", torch.bfloat16) if wanted else nullcontext()

    def add_up(self, sums: Tensor) -> None:
        """Each gradient is already divided by the *whole* window, so that a sum is exact.

        DistributedDataParallel would take the mean of every pass, whatever its number of tokens. All is one message.
        """
        if self.share.processes == 1:
            return
        parameters = self.parameters
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [sums, *gradients]
        added = reduce(torch.cat([part.flatten() for part in parts]), "sum").split([part.numel() for part in parts])
        sums.copy_(added[0])
        for parameter, gradient in zip(parameters, added[1:], strict=True):
            parameter.grad = gradient.view_as(parameter)

    def weights(self) -> dict[str, Tensor]:
        """Every process has them all."""
        return get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """The others are sent a few ten megabytes."""
        if self.share.processes > 1:
            [found] = broadcast_object_list([found])
        assert found is not None
        set_peft_model_state_dict(self.model, found.weights)
        optimizer.load_state_dict(found.optimizer)

    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """In PEFT's format, as the finished run writes it."""
        save_adapter(weights, self.model.peft_config["default"], checkpoint / ADAPTER, self.base)

    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """OUT/adapter, in PEFT's format."""
        self.write_weights(weights, out)

    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """The adapter must add nothing yet."""
        return starts_from_base(self.model, batches)
