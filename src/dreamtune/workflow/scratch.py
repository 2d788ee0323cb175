"""The folder that a job writes into before its output is moved into place: beside the results, or on a local disk."""

import os
import shutil
import socket
import time
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.workflow.parts import PARTS
from dreamtune.writers import LOCK, PRIVATE, abandoned, private_name

VARIABLE = "DREAMTUNE_SCRATCH"
ATTEMPTS = 20  # to move an output into place beside another writer of the same version


def scratch_folder() -> Path | None:
    """Return the local folder that DREAMTUNE_SCRATCH names; None if the variable is not set.

    Its value may contain other variables, such as '$SLURM_TMPDIR', which are expanded on the node where the job runs.

    Raises:
        UserError: there is no such folder on this node, or it cannot be written to.
    """
    asked = os.environ.get(VARIABLE)
    if not asked:
        return None
    folder = Path(os.path.expandvars(asked))
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(
            f"{VARIABLE} is {asked!r}, but {folder} is no folder on {socket.gethostname()} that can be written to; "
            "name another, or unset it to work beside the results (a container started by hand needs --bind FOLDER)"
        )
    return folder


def private_folder(parent: Path, name: str) -> Path:
    """Make an empty folder for this process alone in `parent`, and delete those of that name without a writer."""
    clear_abandoned(parent, f".{name}.*")
    folder = private_name(parent / name)
    folder.mkdir(parents=True)
    return folder


def replace_folder(source: Path, target: Path, aside: Path) -> None:
    """Rename a file or folder to `target`; if a folder of that name exists, move it into `aside` first.

    The two renames are not atomic together: another writer may rename in between, so they are tried several times.
    """
    for attempt in range(ATTEMPTS):
        try:
            if target.is_dir():
                target.rename(aside / f".old-{target.name}-{attempt}")
            source.rename(target)
            return
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.01 * attempt)


def clear_abandoned(folder: Path, pattern: str = PRIVATE) -> None:
    """Delete the half-written files and folders in `folder` that killed jobs left (see `writers.abandoned`)."""
    for left in abandoned(folder, pattern):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def clear_finished(version: Path) -> None:
    """Delete what a job left that was killed between writing its manifest and clearing up: its parts, private folders.

    A finished version has no further job that would do it.
    """
    shutil.rmtree(version / PARTS, ignore_errors=True)
    (version / LOCK).unlink(missing_ok=True)
    clear_abandoned(version)
