"""Which of a machine's GPUs a job takes. Snakemake counts them and does not say which; SLURM shows a job only its own.

A GPU is taken as long as the process lives, by a lock on a file in the temporary folder that all jobs of a user share.
"""

import fcntl
import os
import socket
import sys
import tempfile
from pathlib import Path

import torch

from dreamtune.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")  # seen in a container too, with or without --nv
_held: list[int] = []  # open files, whose locks end with the process


def resolve_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto".

    Raises:
        UserError: a GPU was asked for and there is none; or "auto" would leave one alone that cannot be used, and take
            the CPU for days.
    """
    if device == "cpu" or torch.cuda.is_available():
        return "cuda" if device == "auto" else device
    if device != "auto":
        raise UserError("model.device is cuda and torch sees no GPU; set it to auto or cpu, or mend the driver")
    if torch.version.cuda and DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        raise UserError(
            f"there is an NVIDIA driver here, and torch (CUDA {torch.version.cuda}) sees no GPU; ask for one (--gpus, "
            "--nv) or update the driver. To run on the CPU set model.device to cpu, or CUDA_VISIBLE_DEVICES to nothing"
        )
    return "cpu"


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that torch sees, as CUDA_VISIBLE_DEVICES has them."""
    there = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (given.split(",") if given else list(map(str, range(there))))[:there]


def take_gpus(count: int) -> list[int]:
    """Return which `count` GPUs, of those torch sees, are this process's; fewer if there are not so many.

    Where there is a choice, they are ones that no other job has taken; if too few are left, some are shared, which is
    said on stderr: the memory of a shared GPU may not suffice for both.
    """
    there = torch.cuda.device_count()
    if there <= count:
        return list(range(there))
    taken: list[int] = []
    for number, name in enumerate(visible_gpus()):
        if len(taken) < count and _lock(name):
            taken.append(number)
    if len(taken) < count:
        shared = [number for number in range(there) if number not in taken][: count - len(taken)]
        print(f"other jobs have taken all {there} GPUs but {len(taken)}; sharing {shared} with them", file=sys.stderr)
        taken += shared
    return taken


def take_gpu(device: str) -> None:
    """Let what goes to "cuda" from here on go to a GPU of this process's own; one of several has been given its own.

    Args:
        device: as in the configuration; nothing is done for the CPU.
    """
    if resolve_device(device) == "cuda" and "LOCAL_RANK" not in os.environ:
        for number in take_gpus(1):
            torch.cuda.set_device(number)


def show_gpus(count: int) -> None:
    """Let the processes that this one starts see `count` GPUs, of this process's own."""
    if names := visible_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in take_gpus(count))


def _lock(name: str) -> bool:
    file = Path(tempfile.gettempdir()) / f"dreamtune-{os.getuid()}-{socket.gethostname()}-gpu-{name}"
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError as error:  # a temporary folder whose file system has no locks
        print(f"cannot lock {file} ({error.strerror}): two jobs here may take one GPU", file=sys.stderr)
    _held.append(descriptor)
    return True
