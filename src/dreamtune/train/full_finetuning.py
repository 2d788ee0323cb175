"""Full fine-tuning: all weights are trained, each process holds a share of them (FSDP; Zhao et al. 2023).

Weights, gradients and optimiser stand in float32, so that updates much smaller than bf16's steps are not lost: 16 bytes
a weight, divided by the processes. A module's weights are gathered in the model's type just before it computes, and
gradients are added up over the processes in float32 right after. With one process, it gathers from itself.

Gathering is a message of all processes, so all must take the same number of passes (`Share.lockstep`), and one that
runs out of memory cannot begin its window anew by itself: the run ends, and says so.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from dreamtune.canaries.window import base_check
from dreamtune.checks import Check
from dreamtune.device.memory import GIB
from dreamtune.errors import UserError
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.weight_files import MODEL_WEIGHTS, weight_files
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import DTYPES
from dreamtune.model.official_format import native_key
from dreamtune.model.official_writer import rewrite
from dreamtune.objective.loss import head_loss
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.train.checkpoint import Checkpoint
from dreamtune.train.finetuning import Finetuning

# What the first process is given: everything, in the host's memory. And what each is sent: its share of that.
GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SEND = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class FullFinetuning(Finetuning):
    """All weights of a model, sharded.

    Args:
        loaded: the base model, not quantised; it is changed in place.
        base: where it was loaded from.
        device: of this process.

    Raises:
        UserError: embeddings and head are one tensor, which two modules cannot shard.
    """

    def __init__(self, loaded: Any, base: ModelConfig, device: torch.device):
        if loaded.config.tie_word_embeddings:
            raise UserError(
                f"{base.path} ties its embeddings to its head, which full fine-tuning cannot share out; set "
                "train.finetuning to lora"
            )
        self.base, self.folder = base, model_folder(base.path, base.revision)
        self.model = shard(loaded, DTYPES[base.dtype], device)

    def besides_gib(self) -> float:
        """Gradients and AdamW's two moments in float32; embeddings and head gathered, with their gradients."""
        shares = sum(p.to_local().numel() for p in self.parameters)  # type: ignore[attr-defined]
        return (12 * shares + 20 * self.model.lm_head.weight.numel()) / GIB

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Sharding sees to it."""
        return nullcontext()

    def add_up(self, sums: Tensor) -> None:
        """The gradients have been, in each backward pass."""
        sums.copy_(reduce(sums, "sum"))

    def clip(self, max_norm: float) -> Tensor:
        """The norm is over the shares of all processes."""
        norm: Any = super().clip(max_norm)
        return norm.full_tensor()

    def weights(self) -> dict[str, Tensor]:
        """In float32, in the host's memory."""
        gathered: dict[str, Any] = get_model_state_dict(self.model, options=GATHER)
        return gathered

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """By the names of the weights."""
        return get_optimizer_state_dict(self.model, optimizer, options=GATHER)

    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """Each process is sent its share."""
        weights: dict[str, Any] = found.weights if found else {}
        set_model_state_dict(self.model, weights, options=SEND)
        set_optimizer_state_dict(self.model, optimizer, found.optimizer if found else {}, options=SEND)

    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """In float32 and under transformers' names."""
        save_file({name: weight.contiguous() for name, weight in weights.items()}, checkpoint / MODEL_WEIGHTS)

    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """OUT/model, as the base is stored: its files, names and types, so that the official code loads it."""
        family = facts_of(self.model.config).family
        rewrite(self.folder, out / "model", lambda key, stored: weights[native_key(key, family)].to(stored.dtype))

    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """Every weight must be the file's, to the bit."""
        held, kind, worst = dict(self.model.named_parameters()), DTYPES[self.base.dtype], 0.0
        family = facts_of(self.model.config).family
        for key, stored in _stored(self.folder):
            parameter: Any = held[native_key(key, family)]
            whole = parameter.full_tensor()
            worst = max(worst, (whole.detach() - stored.to(whole.device, kind)).abs().max().item())
        return base_check(worst)


def shard(model: Any, kind: torch.dtype, device: torch.device) -> Any:
    """Give each process its share of every layer, of the embeddings with the last norm, and of the head.

    Args:
        model: from `load_model`; its weights become float32, layer by layer.
        kind: type that weights are gathered in, which is also that of the computation.
    """
    if not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in (*model.model.layers, model.model, model.lm_head):
        for parameter in part.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.float()
        sharded: Any = fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        sharded.set_gradient_divide_factor(1.0)  # a sum, not a mean: losses are divided by the whole window
        sharded.set_force_sum_reduction_for_comms(True)
    model.lm_head.loss = MethodType(head_loss, model.lm_head)
    register_fsdp_forward_method(model.lm_head, "loss")
    return model


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        yield from load_file(file).items()
