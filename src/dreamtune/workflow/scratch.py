"""Where a job writes before its output is moved into place: beside the results, or on the node's local disk."""

import os
import shutil
import socket
from pathlib import Path

import psutil

from dreamtune.errors import UserError

VARIABLE = "DREAMTUNE_SCRATCH"


def scratch_folder() -> Path | None:
    """Return the local folder that DREAMTUNE_SCRATCH asks for; None if it does not.

    The node's own variables may stand in it: '$SLURM_TMPDIR' is known only where the job runs.

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


def private_folder(parent: Path, prefix: str) -> Path:
    """Make this process's own, empty folder in `parent`; what its killed predecessors on this host left goes."""
    mine = f"{prefix}{socket.gethostname()}-"
    for left in parent.glob(f"{mine}*"):
        process = left.name.removeprefix(mine)  # no number: of another host, whose name begins like this one's
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{mine}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
