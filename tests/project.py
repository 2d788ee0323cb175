"""A private copy of the project, on which tests run real Snakemake and edit what they like."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

import warm
from conftest import ROOT
from dreamtune.config import parse_config
from dreamtune.workflow import code, plan
from dreamtune.workflow.experiments import Folders, make_plan
from dreamtune.workflow.plan import Plan

PARTS = ("Snakefile", "workflow", "src", "profiles", "config", "resources", "containers/requirements.lock")
MICRO = "micro.yaml"


def environment(python: str) -> dict[str, str]:
    """Return the environment in which Snakemake's jobs run on this Python."""
    path = dict.fromkeys(str(Path(first).parent) for first in (python, sys.executable))
    found = os.environ | {"PATH": ":".join([*path, os.environ["PATH"]]), "OMP_NUM_THREADS": "1"}
    return found | {"PYTHON_EXEC": python}  # which torchrun starts its processes with


class Project:
    """`snakemake` in a copy of the project under `folder`, by default with the smallest config of every stage.

    Snakemake and the scripts run in forks of warm Pythons (docs/testing.md), or, with `real`, on the real interpreter.
    """

    longest_s = 600  # that a run may take
    planned = ""  # by a dry run before it, if a test keeps it
    said = ""  # by the run that finished everything, if a test keeps it

    def __init__(self, folder: Path, config: str = MICRO, cores: int = 2, real: bool = False) -> None:
        self.folder = folder
        self.python = sys.executable if real else warm.python()
        self.options = ("--cores", str(cores), "--configfile", config)
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                # With what is compiled, which stays valid, as files keep their times; not with what is being written.
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc.*"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        shutil.copy2(ROOT / "tests/fixtures/micro.yaml", folder / MICRO)
        self.environment = environment(self.python)

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "snakemake", *arguments, *self.options]

    def start(self, *arguments: str, log: str = "snakemake.log") -> subprocess.Popen[bytes]:
        """Start Snakemake, to be killed, in a process group of its own, it and its jobs on the real interpreter.

        The processes that torchrun starts, in sessions of their own, are forks; they pass signals on.
        """
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

    def plan(self) -> tuple[Plan, dict[str, Folders]]:
        """Return what the Snakefile would plan, made in this process from the copy's configuration and code."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(code, "SRC", self.folder / "src")
            patch.setattr(plan, "ROOT", self.folder)
            return make_plan(parse_config(yaml.safe_load(Path(MICRO).read_text())))

    def stale(self) -> dict[str, int]:
        """Return how many versions of each stage are planned and not finished: what `jobs` returns, without Snakemake.

        It differs where a finished version was deleted: only Snakemake knows that nothing is in need of it any more.
        """
        planned, latest = self.plan()
        found = Counter(stage for stage, version in planned if not self._has(f"{stage}/{version}/manifest.json"))
        links = {name: {key: str(path) for key, path in folders.items()} for name, folders in latest.items()}
        found["publish"] = sum(not self._has(f"latest/{name}") or self.published(name) != links[name] for name in links)
        return dict(+found)

    def _has(self, path: str) -> bool:
        return (self.folder / "results" / path).exists()

    def published(self, experiment: str) -> dict[str, str]:
        """Return the version folders that an experiment's links lead to, by name."""
        return json.loads((self.folder / "results/latest" / experiment / "versions.json").read_text())

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def manifests(self) -> dict[Path, int]:
        """Return every finished version and when it was finished."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "results").glob("*/*/manifest.json")}
