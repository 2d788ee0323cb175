"""The optimiser, and its learning rate as a function of the step alone."""

import math
from collections.abc import Iterable

import bitsandbytes
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dreamtune.errors import UserError
from dreamtune.settings.rate import FIND
from dreamtune.settings.train import TrainConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], train: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimiser that `train.optimizer` names.

    "adamw" is torch's fused AdamW. "paged_adamw_8bit" is that of bitsandbytes, whose 8-bit state moves to the host when
    GPU memory is short (Dettmers et al., arXiv 2110.02861 and 2305.14314).

    Raises:
        UserError: paged_adamw_8bit without a GPU.
    """
    beta1, beta2 = train.betas
    rate = 0.0 if train.learning_rate == FIND else train.peak_rate  # each step sets its own
    if train.optimizer == "paged_adamw_8bit":
        if device.type != "cuda":
            raise UserError("train.optimizer paged_adamw_8bit needs a GPU; set train.optimizer to adamw")
        return bitsandbytes.optim.PagedAdamW8bit(
            parameters, lr=rate, betas=(beta1, beta2), weight_decay=train.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=rate, betas=(beta1, beta2), weight_decay=train.weight_decay, fused=True)


def coming_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that the optimiser's first step will allocate: AdamW's two moments of each weight; then 0.

    The 8-bit optimiser's state is paged: it gives way where memory is short.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        return 0
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    return sum(2 * weight.nbytes for weight in weights if weight not in optimizer.state)


def learning_rate(step: int, total: int, train: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up from 0, then `train.schedule` down to 0.

    Both zeros lie outside of the run, before the first and after the last step, so that no step is wasted.

    Args:
        step: counted from 1.
        total: steps of the run.
        train: gives `learning_rate`, `warmup` as a share of all steps, and `schedule`.

    >>> train = TrainConfig(learning_rate=1.0, warmup=0.2, schedule="linear")
    >>> [round(learning_rate(step, 10, train), 3) for step in range(1, 11)]
    [0.333, 0.667, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    warmup = min(round(train.warmup * total), total - 1)
    if step <= warmup:
        return train.peak_rate * step / (warmup + 1)
    gone = (step - warmup - 1) / (total - warmup)
    decay = {"constant": 1.0, "linear": 1.0 - gone, "cosine": 0.5 + 0.5 * math.cos(math.pi * gone)}
    return train.peak_rate * decay[train.schedule]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def skips_unless_finite(optimizer: torch.optim.Optimizer, numbers: Tensor) -> bool:
    """Make the optimiser's next step skip itself on the device if a number is not finite; return whether it can.

    Only torch's fused AdamW of weights that are not sharded can: by the flag that a `GradScaler` sets.

    Args:
        numbers: [n], on the weights' device.
    """
    weights = optimizer.param_groups[0]["params"]
    if not isinstance(optimizer, torch.optim.AdamW) or any(isinstance(weight, DTensor) for weight in weights[:1]):
        return False
    optimizer.found_inf = (~numbers.isfinite().all()).float()  # type: ignore[attr-defined]
    return True
