"""Memory in use and free on a device: on a GPU its memory, on the CPU this process's resident memory."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamtune.errors import UserError

GIB = 2**30
_before_watch: list[float] = []  # peaks that `watch` has forgotten
RESERVE_GIB = 1.0  # left free for the CUDA context, libraries, fragmentation and other programs


def peak_gib(device: torch.device | str) -> float:
    """Return the peak memory in GiB: allocated on the GPU since `watch`, or resident since the process started."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def highest_gib() -> float:
    """Return the peak memory in GiB that was allocated on a GPU since the process started; 0 if it used none."""
    if not torch.cuda.is_initialized():
        return 0.0
    now = [torch.cuda.max_memory_allocated(number) / GIB for number in range(torch.cuda.device_count())]
    return max([0.0, *_before_watch, *now])


def watch(device: torch.device | str) -> float:
    """Restart the count of the GPU's peak; return the memory allocated now in GiB (on the CPU the peak so far)."""
    if torch.device(device).type == "cuda":
        _before_watch.append(highest_gib())
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / GIB
    return peak_gib(device)


def numbered(device: str) -> str:
    """Return "cuda:N" for "cuda", where N is torch's current GPU in this thread; other devices as they are.

    Threads need the number: in a new thread the current GPU is the first one.
    """
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def device_gib(device: torch.device | str) -> float:
    """Return the total memory in GiB of the GPU, or of the machine if the device is the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def free_gib(device: torch.device, limit_gib: float | None = None) -> float:
    """Return the GPU memory in GiB that this process can still allocate, less `RESERVE_GIB`.

    Args:
        limit_gib: most memory in GiB that the process may hold in all; None for all of the GPU's.
    """
    free, total = torch.cuda.mem_get_info(device)
    held, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    limit = total if limit_gib is None else min(limit_gib * GIB, total)
    return min(free + held - allocated, limit - allocated) / GIB - RESERVE_GIB


def limit_memory(device: torch.device, limit_gib: float | None) -> None:
    """Let torch allocate at most `limit_gib` GiB of the GPU's memory, for instance to try a plan for a smaller card.

    None removes the limit; on the CPU nothing is done.
    """
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(number).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min((limit_gib or total) / total, 1.0), number)


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Raise a UserError that ends in `remedy` if the GPU's memory runs out within the `with` block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of GPU memory; {remedy}") from error
