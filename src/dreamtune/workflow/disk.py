"""Say in one line that a disk is full or cannot be written to, whatever the library that noticed it called it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamtune.errors import UserError

READ_ONLY = re.compile(r"Read-only file system|\(os error 30\)")
# torch's archive writer does not say why it failed: it finds fewer bytes in the file than it wrote.
FULL = re.compile(
    r"No space left on device|Disk quota exceeded|StorageFull|\(os error (28|122)\)"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing file"
)
# Polars, where the last bytes of a parquet file do not fit; a damaged file that is read may be said to be the same.
UNCLEAR = re.compile(r"Invalid thrift: transport error")
NO_ROOM = 2**20  # bytes


def disk_problem(error: BaseException, folder: Path) -> UserError | None:
    """Return a UserError if an exception came from a disk that is full or read-only; None for any other exception.

    pyarrow and Python raise an OSError; polars, safetensors and torch an exception of their own, which repeats the
    system's words or, from torch, only its consequence.

    Args:
        error: what was raised.
        folder: where its process writes, which is named in the message.
    """
    said = [] if isinstance(error, UserError) else [str(each) for each in _causes(error)]
    if any(map(FULL.search, said)) or (any(map(UNCLEAR.search, said)) and _free_bytes(folder) < NO_ROOM):
        return UserError(
            f"the disk is full: cannot write to {_named(folder)}; nothing was filed; make room (`make prune` deletes "
            "results that nothing needs), and start again"
        )
    if any(map(READ_ONLY.search, said)):
        return UserError(f"cannot write to {_named(folder)}, which is read-only; make it writable, and start again")
    return None


@contextmanager
def one_line(folder: Path) -> Iterator[None]:
    """Turn an OSError within the block into a UserError that names `folder`, where the block writes."""
    try:
        yield
    except OSError as error:
        if problem := disk_problem(error, folder):
            raise problem from error
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        raise UserError(f"cannot write to {_named(folder)} ({reason}); make it writable, and start again") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _named(folder: Path) -> str:
    """Return a folder's path with the file system that holds it, by its mount point."""
    place = folder.absolute()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return f"{folder} (on {place})"
