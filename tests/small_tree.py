"""A small tree to call make in: the project's Makefile and containers/environment.py, and a stand-in for pip.

The stand-in installs a line NAME==VERSION as a module NAME with that version, and as a command that prints both and the
Python it runs on; at a line `wait FILE` it waits until the file exists; a line `fails` ends it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT

PYTHON = """#!/bin/sh
exec {real} {folder}/stand_in.py "$@"
"""
# Runs the given script on a Python that makes virtual environments without pip (0.1 s instead of 5) and calls PIP.
STAND_IN = """
import os, runpy, subprocess, sys
if os.environ.get("OLD_PYTHON"):
    sys.version_info, sys.version = (3, 9, 2), "3.9.2 (old)"
run = subprocess.run
def stand_in(command, **options):
    if "pip" in command:
        command = [command[0], {pip!r}, command[-1]]
    else:
        command = [*command[:-1], "--without-pip", command[-1]]
    return run(command, **options)
subprocess.run = stand_in
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PIP = """
import pathlib, sys, sysconfig, time
begun = time.monotonic()
with open({log!r}, "a") as log:
    log.write(sys.prefix + "\\n")
for line in pathlib.Path(sys.argv[1]).read_text().split("\\n"):
    name, _, version = line.partition("==")
    if line.startswith("wait "):
        while not pathlib.Path(line[5:]).exists() and time.monotonic() < begun + 60:
            time.sleep(0.01)
    elif line == "fails":
        sys.exit("no such package")
    elif line:
        pathlib.Path(sysconfig.get_path("purelib"), name + ".py").write_text(f"version = {{version!r}}")
        command = pathlib.Path(sys.prefix, "bin", name)
        command.write_text(f"#!{{sys.executable}}\\nimport sys\\nprint({{name!r}}, {{version!r}}, sys.executable)\\n")
        command.chmod(0o755)
"""
# What `make prune` runs in the tree: a job that takes its time and imports a package late.
JOB = """
import pathlib, time
print("started", flush=True)
while pathlib.Path("hold").exists():
    time.sleep(0.01)
import alpha, sys
print("alpha", alpha.version, sys.prefix)
"""
LOCK, SLURM_LOCK = "containers/requirements.lock", "containers/requirements-slurm.lock"


class Tree:
    """A tree with a Makefile, two locks and one script, and the calls of make in it."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self.log = folder, beside / "installed"
        self.environment = os.environ | {"PYTHON": str(beside / "python3"), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of `make test`, whose child this is not to be
            self.environment.pop(name, None)
        for name in ("Makefile", "containers/environment.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        self.write("workflow/scripts/prune.py", JOB)
        self.write(LOCK, "alpha==1\n")
        self.write(SLURM_LOCK, "alpha==1\npytest==slurm\n")
        beside.mkdir(exist_ok=True)
        (beside / "pip.py").write_text(PIP.format(log=str(self.log)))
        (beside / "stand_in.py").write_text(STAND_IN.format(pip=str(beside / "pip.py")))
        (beside / "python3").write_text(PYTHON.format(real=sys.executable, folder=beside))
        (beside / "python3").chmod(0o755)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def start(self, *targets: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", *targets],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which `nohup make test &` ignores
        )

    def make(self, *targets: str, fails: bool = False) -> str:
        called = self.start(*targets)
        output, _ = called.communicate(timeout=60)
        assert (called.returncode != 0) == fails, output
        assert "Traceback" not in output
        return output

    def said(self, *targets: str, fails: bool = False) -> str:
        """Return the one line that the script said."""
        [line] = re.findall("^environment: (.*)$", self.make(*targets, fails=fails), re.MULTILINE)
        return line

    @property
    def link(self) -> Path:
        return self.folder / ".venv"

    def installed(self) -> int:
        """Return how often packages have been installed."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of change of a folder and everything in it."""
    stats = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
