"""Runs a script of the project in this process and strikes it once, at an exact instant or after some CPU time.

usage   python struck.py WHAT WHEN SCRIPT [ARGUMENT ...]

WHAT    SIGKILL, SIGTERM or SIGINT   the signal that the process sends to itself
        full                         the file operation fails with ENOSPC, and each one after it
        clock                        from then on time.time() is a year behind
        within                       from the start, the process is in the cgroup whose cgroup.procs WHEN names
        address                      from the start, it may have WHEN MiB of address space more
        nothing                      CPU time in seconds and the number of instants are the last line on stderr
WHEN    17      before the 17th file operation within the working folder: open for writing, mkdir, rename, unlink, ...
        1.25s   after so many seconds of CPU time, in the middle of anything, native code included

Python reports each file operation to its audit hooks before it does it, so the instants are exact and the same in each
run. It lies in a folder `scripts`, so that the warm Pythons take it (tests/warm).
"""

import errno
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

OPERATIONS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
YEAR_S = 365 * 86400.0


def changes_a_file(event: str, arguments: tuple[object, ...], folder: str) -> bool:
    """Return whether an audit event is about to change something within `folder`, an absolute path."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
    elif event in OPERATIONS:
        path = arguments[1 if event == "os.symlink" else 0]
    else:
        return False
    if not isinstance(path, str | bytes | os.PathLike):
        return False  # a file that is open already
    absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100, a Path would take ten times as long
    return absolute.startswith(folder) and "__pycache__" not in absolute


def hook_for(what: str, when: int) -> Callable[[str, tuple[object, ...]], None]:
    """Return the audit hook that counts file operations and strikes before number `when`."""
    folder, seen, number = f"{Path.cwd()}/", [0], os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (event != "open" and event not in OPERATIONS) or os.getpid() != number:
            return
        if not changes_a_file(event, arguments, folder):
            return
        seen[0] += 1
        if seen[0] == when:
            os.write(2, f"struck by {what} before operation {when}: {event} {arguments[:2]}\n".encode())
            if what.startswith("SIG"):
                os.kill(number, signal.Signals[what])
            elif what == "clock":
                turn_back()
        if what == "full" and seen[0] >= when and event in ("open", "os.mkdir", "os.symlink"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "nothing":
        import atexit

        atexit.register(lambda: os.write(2, f"\n{time.process_time():.3f} {seen[0]}\n".encode()))
    return hook


def turn_back() -> None:
    """Turn the clock back by a year, for time.time() and what is built on it here."""
    true = time.time
    time.time = lambda: true() - YEAR_S


def strike_after(seconds: float, what: str) -> None:
    """Start a process that sends this one the signal when it has used so much CPU time."""
    parent = os.getpid()
    if os.fork():
        return
    for number in range(3):
        os.close(number)  # else whoever reads them would wait for this process, too
    clock = (~parent << 3) | 2  # clock_getcpuclockid(3)
    while os.getppid() == parent:
        if time.clock_gettime(clock) >= seconds:
            os.kill(parent, signal.Signals[what])
            break
        time.sleep(0.002)
    os._exit(0)


def run(script: str, arguments: list[str]) -> None:
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *arguments]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = script
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)


if __name__ == "__main__":
    what, when, script, *rest = sys.argv[1:]
    if what == "within":
        Path(when).write_text(str(os.getpid()))
    elif what == "address":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + int(when) * 2**20,) * 2)
    elif when.endswith("s"):
        strike_after(float(when[:-1]), what)
    else:
        sys.addaudithook(hook_for(what, int(when)))
    run(script, rest)
