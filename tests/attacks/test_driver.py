"""Real Snakemake is killed at random moments, with all of its jobs or alone, until its run is done."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from attacks.targets import TIMED, Attacked, Finished
from attacks.undisturbed import draw
from dreamtune.digests import sha256_file
from project import Project

KILLS = 12
LONGEST_S = 25.0  # until a kill


def copy(finished: Finished, folder: Path) -> Project:
    """Return a copy of the project with the attacked configuration, and without results."""
    project = Project(folder)
    shutil.copy2(finished.project / "micro.yaml", folder)
    return project


def results(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of each version, but of those that hold times, and of logs.

    A job that outlives its driver is finished without Snakemake's own benchmark.tsv.
    """
    skipped = TIMED | {"job.log", "index.html", "report.html", "summary.json", "cache.json"}  # the last holds inodes
    return {
        str(path.relative_to(folder)): "timed" if path.name in skipped else sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != "benchmark.tsv"
        and "latest" not in path.parts
        and "render_report" not in path.parts
    }


def kill(driver: subprocess.Popen[bytes], project: Project, lot: random.Random) -> str:
    """Kill the driver with everything that it started, or alone, or first one job and then all; return which."""
    how = lot.choice(["all", "driver", "a job, then all"])
    if how == "driver":
        driver.kill()
    else:
        jobs = [p for p in psutil.process_iter(["cmdline", "cwd"]) if is_job(p, project)]
        if how != "all" and jobs:
            lot.choice(jobs).kill()
            time.sleep(lot.uniform(1, 10))  # Snakemake goes on with other jobs, or tries that one again
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(240)
    return how


def is_job(process: psutil.Process, project: Project) -> bool:
    command = process.info["cmdline"] or []
    return process.info["cwd"] == str(project.folder) and any("workflow/scripts/" in word for word in command[1:2])


@pytest.mark.timeout(3000)
def test_snakemake_killed_again_and_again(finished: Finished, tmp_path: Path, record_property: Any) -> None:
    project = copy(finished, tmp_path / "project")
    lot, killed = draw("driver"), 0
    while killed < KILLS:
        driver = project.start("all", "merge")
        try:
            status = driver.wait(lot.uniform(3, LONGEST_S))
        except subprocess.TimeoutExpired:
            how = kill(driver, project, lot)
            record_property("struck", f"snakemake: SIGKILL of {how}")
            killed += 1
            continue
        assert status == 0, (project.folder / "snakemake.log").read_text()[-5000:]
        shutil.rmtree(project.folder / "results")
    print(project.snakemake("all", "merge"))
    while any(is_job(p, project) for p in psutil.process_iter(["cmdline", "cwd"])):
        time.sleep(0.1)  # a job that outlived its driver
    job = Attacked(None, project.folder, project.folder, None, ())  # type: ignore[arg-type]
    job.check_whole()
    made, expected = results(project.folder / "results"), results(finished.project / "results")
    assert {name for name in made | expected if made.get(name) != expected.get(name)} == set()
