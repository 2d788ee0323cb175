"""Whether compiling the decoder layers pays: the time that it saves in the full run against the time that it takes.

The smoke run decides by the full run's tokens, not by its own, since it measures what the full run will run.
"""

import time

import torch
from torch import nn

from dreamtune.model.logits import unwrap
from dreamtune.prediction import training_tokens
from dreamtune.settings.train import TrainConfig
from dreamtune.train.micro_batch_plan import TOKENS, Shape
from dreamtune.train.windows import Share, TrainingWindows

COMPILE_S = 70.0  # of one layer, which all share: 71 to 88 seen beside an H200, 50 to 60 with torch's own caches there
# Share of the rate of matrix products that training reached on an H200 in Dream 7B's shape (eager, compiled).
SHARES = (0.51, 0.61)
# Milliseconds in which the host launches a layer forward and backward; where a step is shorter, these decide.
LAUNCH_MS = (8.0, 5.0)
SIZE, PRODUCTS = 4096, 8  # of the matrix products that are timed


def with_compiling(
    model: nn.Module, train: TrainConfig, windows: TrainingWindows, share: Share, full: TrainConfig | None
) -> TrainConfig:
    """Return `train` with `compile` decided, where it is left open and the model runs on a GPU.

    Args:
        model: just loaded.
        train: settings of this run.
        windows: of this run; its split is the full run's, too.
        share: this process's: each compiles, and saves time on its own part of the work.
        full: settings of the full run that this smoke run goes before; None for the full run itself.
    """
    if train.compile is not None or share.device.type != "cuda":
        return train
    if train.lora.variant == "dora":  # PEFT's own layers, which were never compiled here
        return train.model_copy(update={"compile": False})
    tokens = training_tokens(full or train, len(windows.lengths), float(windows.lengths.mean())) / share.processes
    each = min(windows.window_tokens / share.processes, TOKENS[0])
    saved = saved_s(Shape.of(model), tokens, each, product_rate(share.device, unwrap(model).config.dtype))
    return train.model_copy(update={"compile": saved > COMPILE_S})


def saved_s(shape: Shape, tokens: float, micro_batch_tokens: float, flop_per_s: float) -> float:
    """Return the seconds that compiled layers save a process over a run, by the estimates above.

    Args:
        shape: of the model.
        tokens: that the process trains on.
        micro_batch_tokens: of a micro-batch.
        flop_per_s: the device's rate of matrix products.

    The 101 rows of s1K at 2,048 tokens, three epochs, and all 1,000 of them, on an H100:

    >>> dream = Shape(layers=28, hidden=3584, intermediate=18944, vocabulary=152064, packed=6_525_288_448, element=2)
    >>> [round(saved_s(dream, rows * 3 * 2048, 8192, 7e14)) for rows in (85, 870)]
    [6, 64]
    """
    weights = shape.layers * (3 * shape.hidden * shape.intermediate + 2.3 * shape.hidden**2)
    eager, compiled = (
        max(4 * weights * tokens / (share * flop_per_s), tokens / micro_batch_tokens * shape.layers * launch / 1000)
        for share, launch in zip(SHARES, LAUNCH_MS, strict=True)
    )
    return eager - compiled


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the rate of a product of two square matrices on a GPU, in FLOP/s."""
    factor = torch.ones(SIZE, SIZE, device=device, dtype=dtype)
    for timed in (False, True):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(PRODUCTS if timed else 1):
            factor @ factor
        torch.cuda.synchronize(device)
    return PRODUCTS * 2 * SIZE**3 / (time.perf_counter() - start)
