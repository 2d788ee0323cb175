"""Settings of torch.compile for training and generation."""

import torch


def allow_variants() -> None:
    """Let torch.compile make up to 64 variants of a decoder layer.

    Shapes differ between whole sequences and blocks, one row and several, with a mask or without: more than the
    default of 8 variants, beyond which new ones run uncompiled, with no sign but a line in the compiler's log.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
