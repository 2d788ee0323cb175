"""Settings of torch.compile for training and generation."""

from typing import Any

import torch

from dreamtune.device import phases


def set_compiler() -> None:
    """Let torch.compile make up to 64 variants of a decoder layer, with its floats as constants; count its seconds.

    Shapes differ between whole sequences and blocks, one row and several, with a mask or without: more than the
    default of 8 variants, beyond which new ones run uncompiled, with no sign but a line in the compiler's log. A float
    that is no constant, as an adapter's scaling and dropout would be, is computed with on the CPU: its C++ is compiled
    beside the GPU's kernels, for which the compiler first probes the processor in other processes, 52 s of 82 on an
    H200's host.
    """
    from torch._dynamo.callback import callback_handler  # the compiler, whose import takes seconds

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    torch._dynamo.config.specialize_float = True
    if _begins not in callback_handler.start_callbacks:
        callback_handler.register_start_callback(_begins)
        callback_handler.register_end_callback(_ends)


def _begins(_: Any) -> None:
    phases.enter("compiling")


def _ends(_: Any) -> None:
    phases.leave()
