"""Killed in the middle of the full run, in three ways; then the same command again, nothing unlocked by hand.

What is killed are real processes, from Snakemake to the training; what goes on from it may be a fork of a warm Python.
"""

import copy
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from project import MICRO, Project

STEPS = 40  # so many that it still trains when Snakemake has started again


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with shards and smoke run done, whose full run has 40 steps and a checkpoint every 4."""
    project = Project(tmp_path_factory.mktemp("kill"))
    project.edit(MICRO, "full: {rows: 16,", f"full: {{rows: {8 * STEPS},")
    project.edit(MICRO, "checkpoint_minutes: 10.0", "checkpoint_steps: 4")
    smoke = _training(project, rows=8)
    project.snakemake(f"{smoke}/manifest.json")
    return project


@pytest.fixture(scope="module")
def uninterrupted(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    project = _copy(prepared, tmp_path_factory.mktemp("uninterrupted"))
    full = _training(project, rows=8 * STEPS)
    project.snakemake(f"{full}/manifest.json")
    assert json.loads((project.folder / full / "training.json").read_text())["resumed_from"] == []
    return (project.folder / full / "adapter/adapter_model.safetensors").read_bytes()


def _copy(project: Project, folder: Path) -> Project:
    shutil.rmtree(folder)
    shutil.copytree(project.folder, folder, symlinks=True)
    copied = copy.copy(project)
    copied.folder = folder
    return copied


def _training(project: Project, rows: int) -> str:
    """Return the planned version folder of the training run on so many rows."""
    plan, _ = project.plan()
    [version] = [v for (s, v), spec in plan.items() if _rows(spec) == rows and s == "train_adapter"]
    return f"results/train_adapter/{version}"


def _rows(spec: dict[str, Any]) -> int | None:
    return spec["settings"].get("train", {}).get("rows")


def _trainer(project: Project) -> psutil.Process:
    [process] = [
        p
        for p in psutil.process_iter(["cmdline", "cwd"])
        if p.info["cwd"] == str(project.folder) and any("train_adapter.py" in c for c in (p.info["cmdline"] or [])[1:2])
    ]
    return process


def _processes(project: Project) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(project.folder)]


def _wait(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def _kill_training(driver: subprocess.Popen[bytes], project: Project) -> None:
    _trainer(project).kill()
    assert driver.wait(240) != 0


def _kill_all(driver: subprocess.Popen[bytes], project: Project) -> None:
    trainer = _trainer(project)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(240)
    _wait(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)


def _kill_driver(driver: subprocess.Popen[bytes], project: Project) -> None:
    driver.kill()
    driver.wait(240)
    assert _trainer(project).is_running()  # the training goes on, and the next call starts a second one beside it


def _terminate_all(driver: subprocess.Popen[bytes], project: Project) -> None:
    """As SLURM does when a job is preempted or its time is up: SIGTERM to every process of it."""
    _ask_all(driver, project, signal.SIGTERM)


def _warn_all(driver: subprocess.Popen[bytes], project: Project) -> None:
    """As SLURM does with --signal=USR1@…, under which Snakemake itself dies at once."""
    _ask_all(driver, project, signal.SIGUSR1)


def _ask_all(driver: subprocess.Popen[bytes], project: Project, number: signal.Signals) -> None:
    os.killpg(driver.pid, number)
    assert driver.wait(240) != 0
    _wait(lambda: not _processes(project))
    full = _training(project, rows=8 * STEPS)
    last = (project.folder / full / "job.log").read_text().splitlines()[-1]
    kept = sorted((project.folder / full / "checkpoints").glob("step-*"))[-1]
    said = f"stopped by {number.name}; a checkpoint after step {int(kept.name[-6:])} of {STEPS} is kept"
    assert last.startswith(f"train_adapter: {said}"), last
    assert not list((project.folder / full).glob(".out-*"))


@pytest.mark.parametrize("kill", [_kill_training, _kill_all, _kill_driver, _terminate_all, _warn_all])
def test_resumes_to_the_same_bits(
    prepared: Project, uninterrupted: bytes, tmp_path: Path, kill: Callable[[subprocess.Popen[bytes], Project], None]
) -> None:
    project = _copy(prepared, tmp_path)
    full = _training(project, rows=8 * STEPS)
    driver = project.start(f"{full}/manifest.json")
    folder = project.folder / full
    _wait(lambda: list((folder / "checkpoints").glob("step-*")) or driver.poll() is not None)
    kill(driver, project)
    assert not (folder / "manifest.json").exists()
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert checkpoints[-1] < f"step-{STEPS:06d}", "it was killed too late to show anything"

    project.snakemake(f"{full}/manifest.json")
    _wait(lambda: not _processes(project))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert json.loads((folder / "training.json").read_text())["resumed_from"]
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == uninterrupted
    for name, output in manifest["outputs"].items():
        assert (folder / name).stat().st_size == output["bytes"], name
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, STEPS + 1))
    assert not list(folder.glob(".out-*")), "a private folder was left behind"
