"""Runs `python3 ARGUMENT ...` in a fork of a warm Python, as if it ran here; see server.py.

The real interpreter runs what the servers do not take: other programs than the project's scripts and Snakemake, and an
environment in which a library would differ that reads it while it is imported. This starts in a few milliseconds,
without site-packages.
"""

import contextlib
import marshal
import os
import signal
import socket
import sys
import zlib

KEPT_REAL = ("download.py", "torchrun.py")  # one goes to the network, the other starts interpreters
RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def kind_of(arguments: list[str]) -> str | None:
    """Return which servers run a call, or None if none does."""
    if arguments[:2] == ["-m", "snakemake"]:
        return "snakemake"
    folder, name = os.path.split(arguments[0] if arguments else "")
    if os.path.basename(folder) in ("scripts", "benchmarks") and name.endswith(".py") and name not in KEPT_REAL:
        return "model"
    return None


def differing(folder: str) -> list[str]:
    """Return the variables that libraries read when they are imported, and that are not as they were for the servers.

    They are noted for the summary: a variable that all tests set would cost them all their forks.
    """
    with open(f"{folder}/environment", "rb") as file:
        read, not_read, usual, seen = marshal.load(file)
    now = usual | {n: value for n, value in os.environ.items() if n.startswith(read) and not n.startswith(not_read)}
    now |= {name: usual[name] for name in usual if name.endswith("_THREADS") and now[name] == "2"}
    names = sorted(name for name in seen | now if seen.get(name) != now.get(name))
    if names:
        with open(f"{folder}/real", "a") as file:
            file.write(" ".join(names) + "\n")
    return names


def seed_of(folder: str, arguments: list[str]) -> int:
    """Return 0 and 1 in turns for each further time that the same call is made in the same working folder."""
    call = "\0".join(arguments).encode()
    with open(f"{folder}/count-{zlib.crc32(os.getcwd().encode() + call):08x}", "ab", buffering=0) as file:
        file.write(b".")
        return (zlib.crc32(call) + file.tell()) % 2  # else all calls that are made once would have the same


def run(server: socket.socket, arguments: list[str]) -> int:
    """Return how the call ended, as os.waitstatus_to_exitcode does."""
    umask = os.umask(0)
    os.umask(umask)
    ignored = [int(number) for number in RELAYED if signal.getsignal(number) == signal.SIG_IGN]
    request = (arguments, os.getcwd(), dict(os.environ), umask, ignored)
    socket.send_fds(server, [marshal.dumps(request)], [0, 1, 2])
    for number in set(RELAYED) - set(ignored):
        signal.signal(number, lambda received, _: server.send(bytes([received])))
    answer = server.recv(8)
    if not answer:
        with open(f"{server.getpeername()}.log") as log:
            sys.exit(f"the warm Python ended: {log.read()}")
    return int.from_bytes(answer, "little", signed=True)


def main(folder: str, given: list[str]) -> None:
    """Do what a fresh Python would that is called with these arguments; `folder` holds the servers' sockets."""
    unbuffered = given[:1] == ["-u"]  # as torchrun starts its processes
    arguments = given[unbuffered:]
    kind = kind_of(arguments)
    if kind is None or differing(folder):
        os.execv(sys.executable, [sys.executable, *given])
    if unbuffered:
        os.environ["PYTHONUNBUFFERED"] = "1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(f"{folder}/{kind}-{seed_of(folder, arguments)}")
        status = run(server, arguments)
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL cannot be set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
