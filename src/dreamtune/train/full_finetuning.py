"""Full fine-tuning: every weight is trained, sharded over the processes by FSDP (Zhao et al. 2023, arXiv 2304.11277).

Weights, gradients and the optimiser's state are float32, so that updates much smaller than bf16's steps are not lost:
16 bytes for each weight, divided by the number of processes. FSDP gathers a module's weights in the model's type just
before the module computes, and sums its gradients over the processes in float32 right after. One process alone gathers
from itself.

Gathering is a collective operation, so all processes must run the same number of micro-batches (`Share.synchronous`).
A process that runs out of memory cannot repeat its window alone: the run ends with a message.
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
from torch import Tensor, nn
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
from dreamtune.files import usual_mode
from dreamtune.inputs.checkpoint_format import native_key
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.weight_files import MODEL_WEIGHTS, weight_files
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import DTYPES
from dreamtune.model.new_row import set_mean_row
from dreamtune.model.official_writer import declare_mask, rewrite
from dreamtune.objective.loss import head_loss
from dreamtune.objective.packing import Batch
from dreamtune.settings.model import ModelConfig
from dreamtune.train.checkpoint import Checkpoint
from dreamtune.train.finetuning import Finetuning, fingerprint

# Gather: the first process receives the full state in the host's memory. Send: each process receives its shard of it.
GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SEND = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class FullFinetuning(Finetuning):
    """Trains the whole model, sharded by FSDP.

    Args:
        loaded: the base model, not quantised; it is sharded in place.
        base: settings of the base model.
        device: of this process.

    Raises:
        UserError: embeddings and head are one tensor, which cannot be sharded with two modules.
    """

    def __init__(self, loaded: Any, base: ModelConfig, device: torch.device):
        if loaded.config.tie_word_embeddings:
            raise UserError(
                f"{base.path} ties its embeddings to its head, which full fine-tuning cannot share out; set "
                "train.finetuning to lora"
            )
        self.base, self.folder, self.device = base, model_folder(base.path, base.revision), device
        self.model = shard(loaded, DTYPES[base.dtype], device)

    def fixed_gib(self) -> float:
        """Return the GiB that training allocates on this process whatever the plan, beside weights and activations.

        These are gradients and AdamW's two moments of this process's shard in float32, and the gathered embeddings and
        head with their gradients.
        """
        sharded = sum(p.to_local().numel() for p in self.parameters)  # type: ignore[attr-defined]
        return (12 * sharded + 20 * self.model.lm_head.weight.numel()) / GIB

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Return an empty context: FSDP's own policy casts the weights, see `shard`."""
        return nullcontext()

    def add_up(self, sums: Tensor) -> None:
        """Sum `sums` over the processes, in place. FSDP summed the gradients during the backward passes. Collective."""
        sums.copy_(reduce(sums, "sum"))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """All weights of the model, sharded, by name."""
        return dict(self.model.named_parameters())

    def gradient_norms(self) -> Tensor:
        """Return the norm of each weight's gradient, over all processes' shards, [weights]. Collective."""
        gradients = [weight.grad for weight in self.trained.values()]
        squares = [torch.zeros((), device=self.device) if g is None else _local(g).norm().square() for g in gradients]
        norms: Tensor = reduce(torch.stack(squares), "sum").sqrt()
        return norms

    def clip(self, max_norm: float, norms: Tensor) -> Tensor:
        """Scale the gradients down to `max_norm`; return their norm before, over all processes' shards."""
        norm = torch.linalg.vector_norm(norms)
        for weight in self.parameters:
            if weight.grad is not None:  # as torch.nn.utils.clip_grads_with_norm_ does, on this process's shard
                _local(weight.grad).mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def fingerprints(self) -> Tensor:
        """Return `Finetuning.fingerprints`, summed over all processes' shards. Collective."""
        found: Tensor = reduce(torch.stack([fingerprint(_local(weight)) for weight in self.trained.values()]), "sum")
        return found

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights in float32 in the host's memory, {} on all but the first process. Collective."""
        gathered: dict[str, Any] = get_model_state_dict(self.model, options=GATHER)
        return gathered

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the optimiser's state by the names of the weights, {} on all but the first process. Collective."""
        return get_optimizer_state_dict(self.model, optimizer, options=GATHER)

    def restore(self, found: Checkpoint | None, optimizer: torch.optim.Optimizer) -> None:
        """Send each process its shard of the first process's checkpoint. Collective."""
        weights: dict[str, Any] = found.weights if found else {}
        set_model_state_dict(self.model, weights, options=SEND)
        set_optimizer_state_dict(self.model, optimizer, found.optimizer if found else {}, options=SEND)

    def write_weights(self, weights: dict[str, Tensor], checkpoint: Path) -> None:
        """Write the model to CHECKPOINT/model.safetensors, in float32 and under transformers' names."""
        with usual_mode(checkpoint / MODEL_WEIGHTS) as file:
            save_file({name: weight.contiguous() for name, weight in weights.items()}, file)

    def write_result(self, weights: dict[str, Tensor], out: Path) -> None:
        """Write the model to OUT/model with the base's files, keys and types, so that the official code loads it."""
        family = facts_of(self.model.config).family
        rewrite(self.folder, out / "model", lambda key, stored: weights[native_key(key, family)].to(stored.dtype))
        declare_mask(out / "model", self.folder, self.base.mask_token)

    def starts_from_base(self, batches: Sequence[Batch]) -> Check:
        """Return the check that every weight equals the base's file to the bit. Collective."""
        held, kind, worst = dict(self.model.named_parameters()), DTYPES[self.base.dtype], 0.0
        family, row = facts_of(self.model.config).family, facts_of(self.model.config).new_row
        for key, stored in _stored(self.folder):
            parameter: Any = held[native_key(key, family)]
            whole = parameter.full_tensor()
            if row is not None and native_key(key, family) == "model.embed_tokens.weight":
                stored = set_mean_row(stored.to(kind), row)
            worst = max(worst, (whole.detach() - stored.to(whole.device, kind)).abs().max().item())
        return base_check(worst)


def shard(model: Any, kind: torch.dtype, device: torch.device) -> Any:
    """Shard a model in place with FSDP, and return it: each layer, the embeddings with the last norm, and the head.

    Starts a process group of one where torch.distributed has none.

    Args:
        model: from `load_model`; its weights become float32.
        kind: type in which weights are gathered and the model computes.
        device: of this process.
    """
    if not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*model.model.layers, model.model, model.lm_head):
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):  # a layer's weights are DTensors once the layer is sharded
                parameter.data = parameter.data.float()
        sharded: Any = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        sharded.set_gradient_divide_factor(1.0)  # a sum, not a mean: losses are divided by the whole window
        sharded.set_force_sum_reduction_for_comms(True)
    # FSDP gathers the head's weight around its registered methods, so the chunked loss becomes one of them.
    model.lm_head.loss = MethodType(head_loss, model.lm_head)
    register_fsdp_forward_method(model.lm_head, "loss")
    return model


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        yield from load_file(file).items()


def _local(tensor: Any) -> Tensor:
    """Return this process's shard of a sharded tensor, without a copy and without an autograd graph."""
    shard: Tensor = tensor.detach().to_local()
    return shard
