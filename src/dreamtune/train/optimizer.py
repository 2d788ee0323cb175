"""The optimiser of the adapter and its learning rate, which is a function of the step alone."""

import math
from collections.abc import Iterable

import bitsandbytes
import torch
from torch import nn

from dreamtune.errors import UserError
from dreamtune.settings.train import TrainConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], train: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW, or its 8-bit form whose state moves to the host when the GPU's memory is short.

    Raises:
        UserError: paged_adamw_8bit without a GPU.
    """
    beta1, beta2 = train.betas
    if train.optimizer == "paged_adamw_8bit":
        if device.type != "cuda":
            raise UserError("train.optimizer paged_adamw_8bit needs a GPU; set train.optimizer to adamw")
        return bitsandbytes.optim.PagedAdamW8bit(
            parameters, lr=train.learning_rate, betas=(beta1, beta2), weight_decay=train.weight_decay
        )
    return torch.optim.AdamW(
        parameters, lr=train.learning_rate, betas=(beta1, beta2), weight_decay=train.weight_decay, fused=True
    )


def learning_rate(step: int, total: int, train: TrainConfig) -> float:
    """Return the learning rate of `step` (from 1): up from 0 over the warm-up, then down towards 0 after the last step.

    Neither end is itself 0, so that no step is wasted.
    """
    warmup = min(round(train.warmup * total), total - 1)
    if step <= warmup:
        return train.learning_rate * step / (warmup + 1)
    gone = (step - warmup - 1) / (total - warmup)
    decay = {"constant": 1.0, "linear": 1.0 - gone, "cosine": 0.5 + 0.5 * math.cos(math.pi * gone)}
    return train.learning_rate * decay[train.schedule]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
