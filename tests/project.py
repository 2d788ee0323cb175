"""A private copy of the project, on which tests run real Snakemake and edit what they like."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import warm
from conftest import ROOT

PARTS = ("Snakefile", "workflow", "src", "profiles", "config", "resources", "containers/requirements.lock")
MICRO = "micro.yaml"


class Project:
    """`snakemake` in a copy of the project under `folder`, by default with the smallest config of every stage.

    Snakemake and the scripts run in forks of warm Pythons (docs/testing.md), or, with `real`, on the real interpreter.
    """

    longest_s = 600  # that a run may take

    def __init__(self, folder: Path, config: str = MICRO, cores: int = 2, real: bool = False) -> None:
        self.folder = folder
        self.python = sys.executable if real else warm.python()
        self.options = ("--cores", str(cores), "--configfile", config)
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        shutil.copy2(ROOT / "tests/fixtures/micro.yaml", folder / MICRO)
        path = dict.fromkeys(str(Path(python).parent) for python in (self.python, sys.executable))
        self.environment = os.environ | {"PATH": ":".join([*path, os.environ["PATH"]]), "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "snakemake", *arguments, *self.options]

    def start(self, *arguments: str, log: str = "snakemake.log") -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own, on the real interpreter: it is started to be killed."""
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *self.command(*arguments)[1:]],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """Run Snakemake to its end and return what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.longest_s,
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
        return output

    def jobs(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule a dry run would start."""
        table = re.search(r"^job +count\n-.*\n((?:\w+ +\d+\n)+)", self.snakemake("-n", *arguments), re.MULTILINE)
        counts = dict(line.split() for line in table.group(1).splitlines()) if table else {}
        return {rule: int(n) for rule, n in counts.items() if rule not in {"total", "all"}}

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))

    def manifests(self) -> dict[Path, int]:
        """Return every finished version and when it was finished."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "results").glob("*/*/manifest.json")}
