"""Dropout whose mask is a hash of each number's place: inside compiled code as cheap as reading its input.

torch.compile draws dropout by Philox, ten rounds for each number, and stores the mask for the backward pass. At the
inputs of adapters on all layers this was seen to take a fifth of a small model's step. A mask that is a function of a
seed and of the place is computed again in the backward pass, in a dozen integer operations.
"""

import torch
from torch import Tensor, nn

# lowbias32 of Wellons' hash-prospector: every bit of its input changes each bit of its output half of the time.
FACTORS = (0x7FEB352D, 0x846CA68B - 2**32)
SHIFTS = (16, 15, 16)


def dropout(module: nn.Module, x: Tensor) -> Tensor:
    """Return what an adapter's dropout makes of its input, in compiled code by `hashed_dropout`.

    Args:
        module: PEFT's `lora_dropout`, an identity where the probability is 0.
        x: of any shape.
    """
    if isinstance(module, nn.Dropout) and module.training and torch.compiler.is_compiling():
        return hashed_dropout(x, module.p)
    out: Tensor = module(x)
    return out


def hashed_dropout(x: Tensor, p: float) -> Tensor:
    """Set each number to 0 with probability p, and divide the others by 1 - p.

    Each call takes two new words from torch's generator, of which one multiplies the places and one is added, so that
    masks of different calls are not the same sequence shifted.

    Args:
        x: of any shape.
        p: probability, below 1; it is rounded to a multiple of 2 ** -31.
    """
    factor, offset = torch.randint(-(2**31), 2**31 - 1, (2,), dtype=torch.int32, device=x.device).unbind()
    places = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    kept = mixed(places * (factor | 1) + offset) & 0x7FFFFFFF >= round(p * 2**31)
    return torch.where(kept, x * (1 / (1 - p)), 0.0)


def mixed(words: Tensor) -> Tensor:
    """Return the hash lowbias32 of words, int32, which overflow: unsigned arithmetic in all bits."""
    for shift, factor in zip(SHIFTS, (*FACTORS, None), strict=True):
        words = words ^ (words >> shift & (1 << 32 - shift) - 1)
        words = words if factor is None else words * factor
    return words
