"""Who writes a half-written folder: its name says so, and whether that process is still alive can be asked later.

A process is found by its number only among those of its own kernel and process namespace (a container may have one to
itself). A number that was given again to a later process is told apart by the time of that process's start, counted
from the boot: a clock that is set does not move it.
"""

import os
import socket
from functools import cache
from pathlib import Path

import psutil

from dreamtune.digests import digest

BOOT = Path("/proc/sys/kernel/random/boot_id")


def writer_name() -> str:
    """Return PLACE-PROCESS-START of this process, in which there is no dot.

    PLACE are 12 hex digits of the machine's boot and the process namespace. START is the process's start in clock ticks
    after the boot; 0 where there is no /proc.
    """
    return f"{_place()}-{os.getpid()}-{_start(os.getpid())}"


def is_gone(writer: str) -> bool | None:
    """Return whether the process that a `writer_name` stands for has ended; None if that cannot be known from here.

    It cannot where the process ran on another machine, before a reboot, or in a container with processes of its own.

    >>> is_gone(writer_name())
    False
    """
    place, _, process = writer.partition("-")
    number, _, start = process.partition("-")
    if place != _place() or not number.isdigit():
        return None
    return _start(int(number)) != int(start)


@cache
def _place() -> str:
    boot = BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()
    namespace = Path("/proc/self/ns/pid")
    return digest([boot, str(namespace.readlink()) if namespace.exists() else ""])


def _start(number: int) -> int | None:
    """Return when the process of that number started; None if there is none, or a zombie, which writes no more."""
    if not BOOT.exists():
        return 0 if psutil.pid_exists(number) else None
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])  # the 22nd field; proc(5)
