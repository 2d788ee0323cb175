"""A setting of torch.compile that training and generation share."""

import torch


def allow_variants() -> None:
    """Full and block's passes, few rows and one row, masks or none: more variants of a layer than the compiler's 8,
    after which it would run what is new uncompiled, with a line in its own log alone."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
