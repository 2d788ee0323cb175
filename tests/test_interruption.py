"""Ctrl-C while a process exits."""

import subprocess
import sys

from conftest import ROOT

EXITS = """
import atexit, os, signal, sys, time, weakref
sys.path.insert(0, "src")
from dreamtune.interruption import exit_undisturbed
signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
class Made: pass
made = Made()
weakref.finalize(made, lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.01)))
if sys.argv[1] == "undisturbed":
    exit_undisturbed()
"""


def exits(how: str) -> str:
    done = subprocess.run([sys.executable, "-c", EXITS, how], capture_output=True, text=True, timeout=60, cwd=ROOT)
    return done.stderr


def test_exit_handlers_print_no_traceback() -> None:
    assert "KeyboardInterrupt" in exits("disturbed"), "else this test shows nothing"
    assert exits("undisturbed") == ""
