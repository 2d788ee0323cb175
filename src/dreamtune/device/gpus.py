"""Choose the GPUs of a job, so that jobs on the same machine take different ones.

Snakemake counts the GPUs in use but assigns none; SLURM shows each job only its GPUs. A process takes a GPU for as long
as it lives, by locking a file in the temporary folder, which all jobs of a user share.
"""

import fcntl
import os
import socket
import sys
import tempfile
from pathlib import Path

import torch

from dreamtune.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")  # also visible in containers, with or without --nv
SHARERS = 16  # jobs on one GPU that are told apart; where all GPUs have so many, the first ones are shared
_held: list[int] = []  # descriptors of the locked files: closing one would release its GPU


def resolve_device(device: str) -> str:
    """Return the device to compute on, "cuda" or "cpu".

    Args:
        device: "auto", "cpu" or "cuda", as in the configuration; "auto" takes a GPU if there is one.

    Raises:
        UserError: the device is "cuda" and torch sees no GPU; or it is "auto" and there is an NVIDIA driver but no
            usable GPU, so that a job meant for a GPU would run on the CPU for days.
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
    """Return the GPUs that torch sees by their names in CUDA_VISIBLE_DEVICES; without that variable "0", "1", …"""
    there = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (given.split(",") if given else list(map(str, range(there))))[:there]


def take_gpus(count: int) -> list[int]:
    """Take `count` GPUs for this process; return their numbers among those that torch sees, all if there are fewer.

    GPUs that no other job has taken come first. If there are too few of them, others are shared, with a warning on
    stderr, because the memory of a shared GPU may not suffice for both jobs. Each job holds one of a GPU's slots, and
    all first slots are taken before any second one: eight jobs on four GPUs are two on each.
    """
    there = torch.cuda.device_count()
    if there <= count:
        return list(range(there))
    taken: list[int] = []
    alone = 0
    for slot in range(SHARERS):
        for number, name in enumerate(visible_gpus()):
            if len(taken) < count and number not in taken and _lock(f"{name}-{slot}" if slot else name):
                taken.append(number)
        alone = alone if slot else len(taken)
    taken += [number for number in range(there) if number not in taken][: count - len(taken)]
    if shared := taken[alone:]:
        print(f"other jobs have taken all {there} GPUs but {alone}; sharing {shared} with them", file=sys.stderr)
    return taken


def take_gpu(device: str) -> None:
    """Take a GPU for this process and make it torch's current one, which "cuda" means from now on.

    Nothing is done in a process that torchrun started, because the launcher has assigned it a GPU.

    Args:
        device: "auto", "cpu" or "cuda", as in the configuration; nothing is done if it resolves to the CPU.

    Raises:
        UserError: as `resolve_device`.
    """
    if resolve_device(device) == "cuda" and "LOCAL_RANK" not in os.environ:
        for number in take_gpus(1):
            torch.cuda.set_device(number)


def show_gpus(count: int) -> None:
    """Take `count` GPUs and set CUDA_VISIBLE_DEVICES, so that the processes started by this one see only these."""
    if names := visible_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in take_gpus(count))


def _lock(name: str) -> bool:
    """Lock the file of a GPU's slot until this process ends; return whether no other process has locked it."""
    file = Path(tempfile.gettempdir()) / f"dreamtune-{os.getuid()}-{socket.gethostname()}-gpu-{name}"
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError as error:  # the temporary folder's file system has no locks
        print(f"cannot lock {file} ({error.strerror}): two jobs here may take one GPU", file=sys.stderr)
    _held.append(descriptor)
    return True
