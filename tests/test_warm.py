"""A script that runs in a fork of a warm Python sees what one on a fresh interpreter does, and ends as that would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import warm

pytestmark = pytest.mark.skipif(warm.python() == sys.executable, reason="forks need Linux, and no GPU")
FORKED = "import sys, os, psutil\nforked = 'server.py' in ' '.join(psutil.Process().cmdline())\n"
SEEN = """
import json, os, psutil, signal, sys, threading
import beside
umask = os.umask(0)
print(json.dumps({
    "argv": sys.argv, "path": sys.path[:2], "name": __name__, "file": __file__, "folder": os.getcwd(),
    "environment": dict(os.environ), "umask": umask, "threads": threading.active_count(),
    "interrupt": repr(signal.getsignal(signal.SIGINT)), "child": repr(signal.getsignal(signal.SIGCHLD)),
    "main": sys.modules["__main__"].__dict__["umask"], "input": sys.stdin.read(), "encoding": sys.stdout.encoding,
    "flags": str(sys.flags).replace("safe_path=False", ""), "beside": beside.__file__, "errors": sys.stderr.errors,
    "forked": "server.py" in " ".join(psutil.Process().cmdline()),
    "buffered": sys.stdout.line_buffering, "through": sys.stdout.write_through,
}))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A place for a script that the servers take: those of the project lie in such folders."""
    (tmp_path / "scripts").mkdir()
    return tmp_path / "scripts/script.py"


def call(python: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_sees_what_a_fresh_process_sees(script: Path, tmp_path: Path, unbuffered: str) -> None:
    script.write_text(SEEN)
    (script.parent / "beside.py").touch()
    (tmp_path / "there").mkdir()
    path = f"{Path(warm.python()).parent}:{os.environ['PATH']}"
    of_the_test = {"PATH": path, "MINE": "ü", "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": "/first:/second"}
    options: dict[str, Any] = {
        "cwd": tmp_path / "there",
        "env": os.environ | of_the_test,
        "umask": 0o027,
        "input": "in",
    }
    made = [
        call(python, "../scripts/script.py", "--an", "argument", **options)
        for python in (warm.python(), sys.executable)
    ]
    assert [done.returncode for done in made] == [0, 0], made
    forked, fresh = (json.loads(done.stdout) for done in made)
    assert forked["flags"].replace("hash_randomization=0", "hash_randomization=1") == fresh.pop("flags")
    del forked["flags"]
    assert forked == fresh | {"forked": True} and fresh["forked"] is False
    assert forked["path"] == [str(script.parent), "/first"] and forked["umask"] == 0o027


@pytest.mark.parametrize(
    "ends",
    [
        "sys.exit(3)",
        "sys.exit('one line')",
        "sys.exit()",
        "raise ValueError('x')",
        "os._exit(7)",
        "os.kill(os.getpid(), 9)",
        "os.kill(os.getpid(), 15)",
        "raise KeyboardInterrupt",
        "import atexit; atexit.register(print, 'at the end'); sys.stdout.write('no line end')",
        "import threading; threading.Thread(target=lambda: (__import__('time').sleep(0.2), print('waited'))).start()",
    ],
)
def test_ends_as_a_fresh_process_does(script: Path, ends: str) -> None:
    script.write_text(f"import os, sys\nprint('begun', flush=True)\n{ends}\n")
    forked, fresh = (call(python, script) for python in (warm.python(), sys.executable))
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def started(script: Path, code: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a script in a fork; return the call, and the fork, once it says that it runs."""
    script.write_text(
        f"import os, signal, subprocess, sys, time\n{code}\nprint(os.getpid(), flush=True)\ntime.sleep(300)"
    )
    running = subprocess.Popen([warm.python(), script], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    return running, psutil.Process(int(running.stdout.readline()))


def test_signals_are_passed_on(script: Path) -> None:
    running, _ = started(script, "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))")
    running.send_signal(signal.SIGUSR1)
    assert running.wait(60) == 5
    running, fork = started(script, "")
    running.terminate()
    assert running.wait(60) == -signal.SIGTERM and not fork.is_running()


def test_a_call_that_is_killed_leaves_nothing_behind(script: Path) -> None:
    running, fork = started(script, "subprocess.Popen(['sleep', '300'])")
    [sleeper] = fork.children()
    running.kill()
    end = time.monotonic() + 60
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in (fork, sleeper)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_order_that_hangs_on_hashes_shows(script: Path) -> None:
    """The same call is answered by another server the second time, whose sets have another order."""
    script.write_text("print(list({str(n) for n in range(100)}))")
    first, second, third = (call(warm.python(), script).stdout for _ in range(3))
    assert first == third != second and sorted(first) == sorted(second)


def test_two_calls_draw_differently_where_nothing_is_seeded(script: Path) -> None:
    script.write_text("import random, uuid, numpy; print(random.random(), uuid.uuid4(), numpy.random.rand())")
    first, second = (call(warm.python(), script, number).stdout.split() for number in (0, 2))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_projects_own_modules_are_imported_for_each_call(script: Path) -> None:
    script.write_text(f"{FORKED}print(forked, [name for name in sys.modules if name.split('.')[0] == 'dreamtune'])")
    assert call(warm.python(), script).stdout == "True []\n"


def test_tests_that_have_imported_the_libraries_themselves_get_forks(script: Path) -> None:
    """Importing them sets variables; a call that quietly ran on the real interpreter would cost ten times as much."""
    import datasets  # noqa: F401
    import peft  # noqa: F401

    script.write_text(f"{FORKED}print(forked)")
    assert call(warm.python(), script).stdout == "True\n"


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONHASHSEED"])
def test_another_environment_for_the_libraries_needs_a_fresh_process(script: Path, variable: str) -> None:
    script.write_text(f"{FORKED}print(forked, os.environ[{variable!r}])")
    assert call(warm.python(), script, env=os.environ | {variable: "7"}).stdout == "False 7\n"


def test_other_programs_run_on_the_real_interpreter(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(f"{FORKED}print(forked)")
    assert call(warm.python(), tmp_path / "child.py").stdout == "False\n"
    assert call(warm.python(), "-c", "import sys; print(sys.executable)").stdout.strip() == sys.executable
