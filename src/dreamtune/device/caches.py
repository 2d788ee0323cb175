"""What the jobs of a workflow keep for each other beside the results: the quantised base, compiled code. Torch-free.

Everything here can be deleted at any time: it is made again. A job's result is the same with and without, to the bit on
a CPU, so nothing of it is hashed into a version; the manifest names what a job took (`caches`). Outside of a job, in
benchmarks and in functions that are called by hand, there is none.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.files import private_name


@dataclass
class Caches:
    """The caches of a job.

    Attributes:
        folder: that holds them.
        model: identity of the base model when the job began, see `inputs.identity`; None if the job reads none.
        identify: returns what that identity is now; None where nothing can change it.
        taken: digest of each entry that the job took, by its name, for the manifest.
    """

    folder: Path
    model: Any = None
    identify: Callable[[], Any] | None = None
    taken: dict[str, str] = field(default_factory=dict)

    def model_changed(self) -> bool:
        """Return whether the base model's files are others than when the job began."""
        try:
            return self.identify is not None and self.identify() != self.model
        except (OSError, UserError):  # they are gone
            return True


_job: Caches | None = None


def open_caches(
    folder: str | Path | None, model: Any = None, identify: Callable[[], Any] | None = None
) -> Caches | None:
    """Give this process caches in `folder` from now on, or none if it is None; return them. See `Caches`."""
    global _job
    _job = Caches(Path(folder), model, identify) if folder else None
    return _job


def job_caches() -> Caches | None:
    """Return the caches of this job; None outside of one, or if the configuration asks for none."""
    return _job


@contextmanager
def only_maker(entry: Path, is_made: Callable[[], bool]) -> Iterator[Path | None]:
    """Yield a private folder in which to make `entry`, and rename it to `entry` at the end, if nothing was raised.

    Yields None if another process is making it just now (nobody waits), or has made it meanwhile, or if nothing can be
    written there. Folders that killed makers left are removed. A disk that is full or read-only is said on stderr and
    raises nothing, as no job needs a cache.
    """
    private = private_name(entry)
    locked = _prepare(entry, private, is_made)
    try:
        yield None if locked is None else private
        if locked is not None:
            if entry.is_symlink() or entry.is_file():  # in the place of a folder, by a mistake
                entry.unlink()
            shutil.rmtree(entry, ignore_errors=True)
            with suppress(FileExistsError):  # another maker, on a file system without locks
                private.rename(entry)
    except OSError as error:
        _go_on_without(entry, error)
    finally:
        shutil.rmtree(private, ignore_errors=True)
        if locked is not None:
            _unlock(entry, locked)


def _prepare(entry: Path, private: Path, is_made: Callable[[], bool]) -> int | None:
    """Lock `entry` and make the folder `private`; return the lock's descriptor, None if `entry` is not to be made."""
    locked = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        locked = _lock(_lock_file(entry))
        if locked is not None and not is_made():
            for left in entry.parent.glob(f".{entry.name}.*"):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
            private.mkdir()
            return locked
    except OSError as error:
        _go_on_without(entry, error)
    if locked is not None:
        _unlock(entry, locked)
    return None


def _go_on_without(entry: Path, error: OSError) -> None:
    print(f"cannot keep {entry} ({error.strerror or error}); going on without", file=sys.stderr)


def _lock_file(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.lock")


def _lock(file: Path) -> int | None:
    """Lock a file until `_unlock` removes it; return its descriptor, None if another process has locked it."""
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # this file system has no locks: at worst two processes make the same
        return descriptor
    with suppress(FileNotFoundError):
        if os.fstat(descriptor).st_ino == file.stat().st_ino:
            return descriptor
    os.close(descriptor)  # its holder was done just now, and removed it
    return None


def _unlock(entry: Path, descriptor: int) -> None:
    with suppress(OSError):
        _lock_file(entry).unlink()
    os.close(descriptor)
