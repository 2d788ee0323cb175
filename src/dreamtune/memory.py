"""Memory of the device a model runs on: the GPU's where it runs on one, else this process's resident memory."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamtune.errors import UserError

GIB = 2**30
RESERVE_GIB = 1.0  # for what is not counted: the CUDA context, libraries, fragmentation, other programs


def peak_gib(device: torch.device | str) -> float:
    """Return the peak so far in GiB: allocated on the GPU since `watch`, or resident."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def watch(device: torch.device | str) -> float:
    """Return what is held now in GiB (on the CPU: the peak so far), and let the GPU's peak be counted from here."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / GIB
    return peak_gib(device)


def device_gib(device: torch.device | str) -> float:
    """Return the memory of the GPU, or of the machine."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Turn the GPU's running out of memory into a UserError that says what to do next."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of GPU memory; {remedy}") from error
