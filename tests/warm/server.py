"""A warm Python: imports the large libraries once, then forks for each call, and runs the call's script in the fork.

usage   python server.py model|snakemake SOCKET COMMAND

COMMAND is the `python3` that hands calls over to this server. It becomes `sys.executable`, so that Snakemake's jobs
come here, too. The server ends, with all that runs in its forks, when its standard input does. A client (client.py)
sends what to run, its working folder, environment, umask and ignored signals, and its standard streams; then numbers of
signals. It is answered with the exit status, and when its end of the socket closes, the fork and all of its process
group are killed.
"""

import atexit
import contextlib
import gc
import importlib
import io
import marshal
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

# Not polars, pyarrow and datasets: they start threads, which a fork does not have.
IMPORTS = {
    "model": "torch transformers peft bitsandbytes safetensors.torch tokenizers scipy.stats sympy math_verify jinja2"
    " altair psutil pydantic.main pydantic.types rich.progress torch.distributed.fsdp torch.utils.tensorboard",
    "snakemake": "snakemake.cli snakemake.report.html_reporter smart_open pydantic.main pydantic.types yaml psutil",
}
Request = tuple[list[str], str, dict[str, str], int, list[int]]


class Forks:
    """The clients' sockets and the processes that run for them; in a fork there are none."""

    def __init__(self, address: str) -> None:
        self.running: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(address)
        self.listener.listen(64)
        self.woken, self.wakes = socket.socketpair()
        self.wakes.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakes.fileno(), warn_on_full_buffer=False)
        for source in (self.listener, self.woken, sys.stdin):
            self.selector.register(source, selectors.EVENT_READ)

    def accept(self, kind: str) -> tuple[Request, list[int]] | None:
        """Fork for a new client; return what to run in the fork, and None in the server."""
        client, _ = self.listener.accept()
        warm_up(kind)
        message, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
        if not message:  # it was killed before it asked for anything
            client.close()
            return None
        pid = os.fork()
        if pid == 0:
            self.forget(client)
            return marshal.loads(message), streams
        for descriptor in streams:
            os.close(descriptor)
        self.running[pid] = client
        self.selector.register(client, selectors.EVENT_READ, pid)
        return None

    def forget(self, client: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        for held in (client, self.listener, self.woken, self.wakes, *self.running.values()):
            held.close()

    def reap(self) -> None:
        """Tell the clients of the processes that have ended how they did."""
        self.woken.recv(1024)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                client = self.running.pop(ended[0], None)
                if client is not None:
                    with contextlib.suppress(KeyError):  # it was killed, and what ran for it thereupon
                        self.selector.unregister(client)
                    with contextlib.suppress(OSError):
                        client.send(os.waitstatus_to_exitcode(ended[1]).to_bytes(8, "little", signed=True))
                    client.close()

    def relay(self, pid: int) -> None:
        """Pass a signal on, or, if the client is no more, kill what runs for it."""
        client = self.running.get(pid)
        if client is None:
            return
        numbers = client.recv(1)
        if numbers:
            os.kill(pid, numbers[0])
        else:
            self.selector.unregister(client)
            self.kill(pid)

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)

    def serve(self, kind: str) -> tuple[Request, list[int]] | None:
        """Serve until the standard input ends; in each fork, return what is to be run in it."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is sys.stdin:
                    for pid in self.running:
                        self.kill(pid)
                    return None
                if key.fileobj is self.listener:
                    request = self.accept(kind)
                    if request is not None:
                        return request
                elif key.fileobj is self.woken:
                    self.reap()
                else:
                    self.relay(key.data)


def warm_up(kind: str) -> None:
    """Import, at the first call, and see that the process may still be forked: it has one thread."""
    if kind == "model":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # as each script does before its imports
    gc.disable()  # it would go through what was imported before, again and again
    for name in IMPORTS.pop(kind, "").split():
        importlib.import_module(name)
        threads = len(list(Path("/proc/self/task").iterdir()))
        assert threads == 1, f"{name} starts threads: it must not be imported before a fork"
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
    gc.enable()


def become(request: Request, streams: list[int], command: str) -> None:
    """Make this fork what a fresh interpreter would be that was called as requested."""
    arguments, folder, environment, umask, ignored = request
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    open_streams(unbuffered=bool(environment.get("PYTHONUNBUFFERED")))
    time.tzset()
    tempfile.tempdir = None
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as the module random does by itself
    sys.executable = command
    module = arguments[0] == "-m"
    extra = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [folder if module else str(Path(folder, arguments[0]).resolve().parent), *filter(None, extra)]
    sys.argv = arguments[1:] if module else arguments


def open_streams(unbuffered: bool) -> None:
    """Open the standard streams as Python does when it starts: it looks at what they lead to."""
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115, it stays open
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        raw = io.FileIO(number, "w", closefd=False)
        stream = io.TextIOWrapper(
            raw if unbuffered else io.BufferedWriter(raw),
            before.encoding,
            before.errors,
            line_buffering=name == "stderr" or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(path: str) -> None:
    """Run a script as the interpreter does the one it is given; runpy would change its first argument."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118, a Path would lose what is said of `./`
    code = compile(Path(path).read_bytes(), main.__file__, "exec")
    exec(code, main.__dict__)


def main(kind: str, address: str, command: str) -> None:
    asked = Forks(address).serve(kind)
    if asked is None:
        return
    become(*asked, command)
    status = 0
    try:
        if asked[0][0][0] == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            run(sys.argv[0])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT if sys.exc_info()[0] is KeyboardInterrupt else 1
    leave(status)


def leave(status: int) -> None:
    """End as an interpreter does, but for taking its modules apart, which would copy all memory shared with the server.

    After a KeyboardInterrupt, an interpreter ends by the signal itself.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):
            stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main(*sys.argv[1:])
