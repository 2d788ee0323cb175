"""Where the seconds of a job go: phases such as loading or compiling, from the start of its process. Torch-free.

Phases nest: the seconds of an inner phase are not counted in the outer one. Seconds outside of any phase are `WORK`,
those before `begin` are `IMPORTS`. A manifest has the result, and benchmarks/workflow_time.py prints it.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

IMPORTS, WORK = "imports", "work"


class Phases:
    """A stopwatch that runs for one phase at a time.

    Threads share it: torch compiles a backward pass on a thread of autograd, for which the main thread waits.
    """

    def __init__(self, first: str = WORK, spent_s: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._spent: defaultdict[str, float] = defaultdict(float, {first: spent_s})
        self._open: list[str] = []
        self._since = time.monotonic()

    def enter(self, name: str) -> None:
        """Begin a phase, inside of the one that runs."""
        with self._lock:
            self._count()
            self._open.append(name)

    def leave(self) -> None:
        """End the phase that began last."""
        with self._lock:
            self._count()
            if self._open:
                self._open.pop()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far, in the order in which they first ended."""
        with self._lock:
            self._count()
            return {name: round(spent, 3) for name, spent in self._spent.items()}

    def _count(self) -> None:
        now = time.monotonic()
        self._spent[self._open[-1] if self._open else WORK] += now - self._since
        self._since = now


_job = Phases()


def begin() -> None:
    """Start the count of a job, whose process has done nothing but imports so far."""
    global _job
    _job = Phases(IMPORTS, process_s())


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the seconds of a block, or of a function that this decorates, as a phase of the job.

    >>> with phase("loading"):
    ...     pass
    """
    job = _job
    job.enter(name)
    try:
        yield
    finally:
        job.leave()


def enter(name: str) -> None:
    """Begin a phase that another function ends, where there is no block to wrap."""
    _job.enter(name)


def leave() -> None:
    """End the phase that began last."""
    _job.leave()


def seconds() -> dict[str, float]:
    """Return the seconds of each phase of this job so far; their sum is the time since its process started."""
    return _job.seconds()


def process_s() -> float:
    """Return the seconds since this process started, by a clock that nobody sets."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after the boot; the 22nd field of proc(5)
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    except (OSError, AttributeError):  # not Linux
        return max(time.time() - psutil.Process().create_time(), 0.0)
