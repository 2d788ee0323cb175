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


def numbered(device: str) -> str:
    """Return "cuda:N" for "cuda", N being this process's: threads that load weights would all take the first GPU."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def device_gib(device: torch.device | str) -> float:
    """Return the memory of the GPU, or of the machine."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def free_gib(device: torch.device, limit_gib: float | None = None) -> float:
    """Return what this process can still take of the GPU's memory, less `RESERVE_GIB`.

    Args:
        limit_gib: the process may hold so much in all; None for all there is.
    """
    free, total = torch.cuda.mem_get_info(device)
    held, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    limit = total if limit_gib is None else min(limit_gib * GIB, total)
    return min(free + held - allocated, limit - allocated) / GIB - RESERVE_GIB


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Let torch take so much of the GPU's memory and no more, so that a plan for a smaller card can be tried here."""
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(number).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min((limit_gib or total) / total, 1.0), number)


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Turn the GPU's running out of memory into a UserError that says what to do next."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of GPU memory; {remedy}") from error
