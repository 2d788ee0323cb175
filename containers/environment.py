"""Make the project's Python environments. The Makefile calls this script, which needs no installed package.

An environment is a folder .venvs/DIGEST, where DIGEST is the first 12 hex digits of its lock's SHA-256. It is built in
place, because a virtual environment cannot be moved, and never changed or deleted afterwards, because jobs may be
running in it. The link .venv leads to the environment in use. The file .complete, written last, marks an environment
as whole.

usage   python3 containers/environment.py setup LOCK      build LOCK's environment and let .venv lead to it
        python3 containers/environment.py require LOCK    the same if .venv leads to no environment; else keep that one
        python3 containers/environment.py build LOCK      build LOCK's environment, leave .venv alone, print the folder
"""

import argparse
import errno
import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# Up to the version check in `_install`, this must run on any Python 3: an old one gets an error in one line then.
ROOT = Path(__file__).resolve().parent.parent
LINK, FOLDER = ROOT / ".venv", ROOT / ".venvs"
COMPLETE = ".complete"  # file in an environment, with its lock's file name and the folder that it was built in
TARGETS = {"requirements.lock": "make setup", "requirements-slurm.lock": "make setup-slurm"}
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # errors of file systems without file locks

# The states of .venv: missing (or a link to an environment that was deleted or never finished), a link into .venvs, a
# link elsewhere, a complete folder as earlier versions of this project made it, or anything else.
MISSING, OURS, ELSEWHERE, EARLIER, UNKNOWN = "missing", "ours", "elsewhere", "earlier", "unknown"


def setup(lock: Path) -> None:
    """Let .venv lead to the environment of the file `lock`, which is built if it does not exist."""
    state = _state()
    if state == EARLIER and _earlier_is_current(lock):
        _say(".venv, a folder that an earlier version of this project made, is up to date")
        return
    _refuse_to_replace(state)
    folder = build(lock)
    if _real(LINK) == folder:
        _say(f"{_shown(folder)} is up to date and in use")
        return
    _refuse_to_replace(_state())  # again, because .venv may have changed during the build, which takes minutes
    _switch(folder)


def require(lock: Path) -> None:
    """Make sure that .venv leads to an environment: keep an existing one, whatever its lock, or set up that of `lock`.

    An existing one that does not match its lock is reported on stderr.
    """
    state = _state()
    if state == MISSING:
        setup(lock)
    elif state == UNKNOWN:
        _refuse_to_replace(state)
    elif state == ELSEWHERE:
        if not _has_python(LINK):
            _stop(f".venv leads to {_real(LINK)}, where no Python environment is; delete the link: rm .venv")
        doubt = "" if _real(LINK).name == _digest(lock) else f", and may not match {_shown(lock)}"
        _say(f"using {_real(LINK)}, which .venv leads to; it is outside of .venvs{doubt}; nothing is installed into it")
    elif state == EARLIER:
        if not _earlier_is_current(lock):
            _say_outdated(lock)
    else:
        lock = lock.parent / _read_marker(_real(LINK))[0]  # of the two locks, the one that it was built from
        if not (lock.exists() and _digest(lock) == _real(LINK).name):
            _say_outdated(lock)


def build(lock: Path) -> Path:
    """Return the folder of the environment of `lock`, which is built if it does not exist."""
    folder = FOLDER / _digest(lock)
    if _real(folder) != folder:
        link = FOLDER if FOLDER.is_symlink() else folder
        _stop(f"{_shown(link)} leads to {_real(link)}; nothing was touched; delete the link: rm {_shown(link)}")
    if not _is_complete(folder):
        FOLDER.mkdir(exist_ok=True)
        with _only_one() as held:
            if not _is_complete(folder):  # another call may have completed it during the wait
                _install(folder, lock, held)
    return folder


def _install(folder: Path, lock: Path, held: int) -> None:
    """Build an environment in `folder` from the beginning, replacing what an interrupted call left there.

    The subprocesses inherit the file lock `held`: if this process alone is killed, the next call waits until they end.
    """
    if sys.version_info < (3, 11):  # noqa: UP036, because the system's Python runs this
        version = sys.version.split()[0]
        _stop(f"Python 3.11 or newer is needed, this is {version}; call: make PYTHON=/path/to/python3.11")
    _say(f"building {_shown(folder)} from {_shown(lock)}, which takes some minutes")
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in [sys.executable, "-I", "-m", "venv", "--clear", str(folder)], [*pip, "--requirement", str(lock)]:
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, pass_fds=[held])
        if done.returncode:
            command_line = " ".join(map(shlex.quote, command))
            _stop(f"this failed, see above: {command_line}; .venv is as it was, and the next call begins again")
    if _digest(lock) != folder.name:
        _stop(f"{_shown(lock)} was edited while it was being installed; .venv is as it was; call again")
    beside = folder / f"{COMPLETE}.new"
    beside.write_text(f"{lock.name}\n{folder}\n")
    beside.replace(folder / COMPLETE)


def _switch(folder: Path) -> None:
    """Let .venv lead to `folder`, atomically: a reader finds the old environment or the new one."""
    before = f"; {_shown(_real(LINK))} stays, for jobs that run in it" if LINK.exists() else ""
    beside = ROOT / f".venv-{os.getpid()}"
    beside.symlink_to(folder.relative_to(ROOT))
    beside.replace(LINK)
    _say(f".venv now leads to {_shown(folder)}{before}")


def _state() -> str:
    """Return the state of .venv, one of the five constants above."""
    if LINK.is_symlink():
        if _real(LINK).parent != FOLDER:
            return ELSEWHERE
        return OURS if _is_complete(_real(LINK)) else MISSING
    if not LINK.exists():
        return MISSING
    return EARLIER if (LINK / COMPLETE).exists() else UNKNOWN


def _refuse_to_replace(state: str) -> None:
    """Stop if .venv was not made by this script, or is a folder in which jobs may be running."""
    if state == ELSEWHERE:
        _stop(f".venv leads to {_real(LINK)}, outside of .venvs; nothing was touched; delete the link: rm .venv")
    if state in (EARLIER, UNKNOWN):
        what = "a folder from an earlier version of this project" if state == EARLIER else "neither a link nor complete"
        _stop(f".venv is {what}; nothing was touched; once no job runs in it, delete it (rm -r .venv) and call again")


def _is_complete(folder: Path) -> bool:
    """Return whether a folder in .venvs is a complete environment; stop if it is one that cannot be used here."""
    if not (folder / COMPLETE).exists():
        return False
    built = Path(_read_marker(folder)[1])
    if not (built.exists() and built.samefile(str(folder))):  # a copy, whose commands would start the original's Python
        _stop(f"{_shown(folder)} was built as {built} and cannot be used elsewhere; call: rm -r {_shown(folder)}")
    if not _has_python(folder):
        _stop(f"the Python that {_shown(folder)} was built with is gone; call: rm -r {_shown(folder)}")
    return True


def _has_python(folder: Path) -> bool:
    return os.access(str(folder / "bin" / "python"), os.X_OK)


def _earlier_is_current(lock: Path) -> bool:
    """Return whether a folder .venv of an earlier version, with an empty marker file per lock, is newer than `lock`."""
    marker = LINK / (".slurm" if "slurm" in lock.name else COMPLETE)
    return marker.exists() and marker.stat().st_mtime >= lock.stat().st_mtime


@contextmanager
def _only_one() -> "Iterator[int]":
    """Wait until no other process builds an environment; yield the file descriptor that holds the lock."""
    with (FOLDER / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another call is building an environment; waiting until it ends")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _say("this file system has no file locks: do not build two environments at the same time")
        yield file.fileno()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(str(path)))  # Path.resolve would raise an error for links that form a loop


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:12]


def _read_marker(folder: Path) -> "tuple[str, str]":
    """Return the file name of an environment's lock, and the folder that the environment was built in."""
    name, _, built = (folder / COMPLETE).read_text().partition("\n")
    return name, built.strip()


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if ROOT in path.parents else str(path)


def _say_outdated(lock: Path) -> None:
    built, target = _shown(_real(LINK)), TARGETS.get(lock.name, "make setup")
    _say(f"{_shown(lock)} has changed since {built} was built, which is used all the same; `{target}` would update it")


def _say(text: str) -> None:
    print(f"environment: {text}", file=sys.stderr, flush=True)


def _stop(text: str) -> NoReturn:
    sys.exit(f"environment: {text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "require", "build"], help="what to do, see above")
    parser.add_argument("lock", type=lambda name: Path(name).resolve(), help="file of the pinned packages")
    arguments = parser.parse_args()
    try:
        made = {"setup": setup, "require": require, "build": build}[arguments.command](arguments.lock)
        if arguments.command == "build":
            print(made)
    except OSError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("interrupted; .venv is as it was, and the next call begins again")
