"""Killed in the middle of the full run, in four ways; then the same command again, nothing unlocked by hand.

What is killed are real processes, from Snakemake to the training; what goes on from it may be a fork of a warm Python.
"""

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

STEPS = 64  # so many that it still trains when Snakemake has started again


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with shards and smoke run done, whose full run has 40 steps and a checkpoint every 4."""
    project = Project(tmp_path)
    project.edit(MICRO, "full: {rows: 16,", f"full: {{rows: {8 * STEPS},")
    project.edit(MICRO, "checkpoint_minutes: 10.0", "checkpoint_steps: 4")
    project.snakemake(f"{_training(project, rows=8)}/manifest.json")
    return project


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
    """As SLURM does when a job is preempted or its time is up: SIGTERM to every process of it.

    SIGUSR1 is shown in test_processes.py.
    """
    os.killpg(driver.pid, signal.SIGTERM)
    assert driver.wait(240) != 0
    _wait(lambda: not _processes(project))
    full = _training(project, rows=8 * STEPS)
    last = (project.folder / full / "job.log").read_text().splitlines()[-1]
    kept = _checkpoints(project.folder / full)[-1]
    said = f"stopped by SIGTERM; a checkpoint after step {int(kept[-6:])} of {STEPS} is kept"
    assert last.startswith(f"train_adapter: {said}"), last
    assert not list((project.folder / full).glob(".out-*"))


@pytest.mark.slow
def test_killed_in_four_ways_it_resumes_to_the_same_bits(project: Project) -> None:
    """One training is killed four times, each time after a further checkpoint, and then left to finish."""
    full = _training(project, rows=8 * STEPS)
    folder = project.folder / full
    project.snakemake(f"{full}/manifest.json")
    assert json.loads((folder / "training.json").read_text())["resumed_from"] == []
    uninterrupted = (folder / "adapter/adapter_model.safetensors").read_bytes()
    shutil.rmtree(folder)

    for times, kill in enumerate((_kill_training, _kill_all, _terminate_all, _kill_driver)):
        last = _checkpoints(folder)[-1:]
        driver = project.start(f"{full}/manifest.json")
        _wait(lambda last=last, driver=driver: _checkpoints(folder)[-1:] > last or driver.poll() is not None)
        kill(driver, project)
        assert not (folder / "manifest.json").exists(), kill
        assert _checkpoints(folder)[-1] < f"step-{STEPS:06d}", "it was killed too late to show anything"
        log = (folder / "job.log").read_text()
        assert ("resuming from step-" in log) == (times > 0), kill

    project.snakemake(f"{full}/manifest.json")
    _wait(lambda: not _processes(project))
    manifest = json.loads((folder / "manifest.json").read_text())
    # 3 where the training that outlived its driver was done before the next one had begun.
    assert len(json.loads((folder / "training.json").read_text())["resumed_from"]) in (3, 4)
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == uninterrupted
    for name, output in manifest["outputs"].items():
        assert (folder / name).stat().st_size == output["bytes"], name
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, STEPS + 1))
    assert not list(folder.glob(".out-*")), "a private folder was left behind"


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
