"""Who writes: whether the writer that a half-written name tells is still alive; and one writer at a time.

A process is found by its number only among those of its own kernel and process namespace (a container may have one to
itself). A number that was given again to a later process is told apart by the time of that process's start, counted
from the boot: a clock that is set does not move it.
"""

import fcntl
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from dreamtune.digests import digest

BOOT = Path("/proc/sys/kernel/random/boot_id")
LOCK = ".lock"
PAUSE_S = 0.1  # between attempts to lock
LONGEST_S = 600.0  # to wait for another writer, which may be a stopped process, or on a node that is cut off
WEEK_S = 7 * 86400.0
PRIVATE = ".*.????????????-*-*.*"  # matches each name that `private_name` makes, and no other hidden file's
IMPORTED = time.monotonic()


def private_name(path: Path) -> Path:
    """Return a hidden name beside `path` that no other writer has, on any host: .NAME.WRITER.RANDOM.

    >>> private_name(Path("results/index.html")).name.startswith(".index.html.")
    True
    """
    return path.with_name(f".{path.name}.{writer_name()}.{secrets.token_hex(4)}")


def abandoned(folder: Path, pattern: str = PRIVATE, elsewhere_s: float = WEEK_S) -> Iterator[Path]:
    """Yield the half-written files and folders that have no writer any more, by their names, as `private_name` made it.

    Args:
        folder: where to look; need not exist.
        pattern: of the names.
        elsewhere_s: seconds without a change after which one of another machine, or from before a reboot, has no writer
            any more; nothing else can be known of it from here.
    """
    for path in folder.glob(pattern):
        gone = is_gone(f"..{path.name}".rsplit(".", 2)[1])
        if gone or (gone is None and time.time() - _last_change(path) > elsewhere_s):
            yield path


def delete(folder: Path) -> None:
    """Delete a folder, which is whole until it has its name no more: it is renamed first.

    If that is interrupted, what is left is `abandoned`. A folder that another process deletes meanwhile is left to it.
    """
    private = private_name(folder)
    with suppress(FileNotFoundError):
        folder.rename(private)
        shutil.rmtree(private, ignore_errors=True)


def age_s() -> float:
    """Return for how many seconds this process has run, by a clock that nobody can set.

    Where there is no /proc, they count from the import of this module.
    """
    if BOOT.exists():
        ticks = _start(os.getpid()) or 0
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - IMPORTED


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


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; wait for a process that holds it, on this host or another.

    The lock ends with its process, however that ends. On a file system without locks, and after LONGEST_S seconds of
    waiting, the block runs without it, and a line on stderr says so.
    """
    path = folder / LOCK
    file, problem = _lock(path)
    with file:
        if problem:
            print(f"{path}: {problem}; going on without the lock", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            if not problem:
                path.unlink(missing_ok=True)


def _lock(path: Path) -> tuple[TextIO, str | None]:
    """Return the open file, and None once it is locked or why it cannot be."""
    end = time.monotonic() + LONGEST_S
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file, None
        except BlockingIOError:
            if time.monotonic() > end:
                return file, f"another process has held it for {LONGEST_S:.0f} s"
        except FileNotFoundError:
            pass  # its last holder has removed it
        except OSError as error:
            return file, error.strerror
        file.close()
        time.sleep(PAUSE_S)


@cache
def _place() -> str:
    boot = BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()
    namespace = Path("/proc/self/ns/pid")
    return digest([boot, str(namespace.readlink()) if namespace.exists() else ""])


def _start(number: int) -> int | None:
    """Return when the process of that number started; None if there is none, or a zombie, which writes no more."""
    if not BOOT.exists():
        import psutil  # not at the top: Snakemake's own process imports this module, and has to start fast

        return 0 if psutil.pid_exists(number) else None
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])  # the 22nd field; proc(5)


def _last_change(path: Path) -> float:
    """Return when a file, or anything in a folder, was changed last, in seconds since 1970; now, if it vanishes."""
    try:
        return max(found.lstat().st_mtime for found in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()
