"""What a job used beside what it had asked for: the record, its line, and the advice for the profile."""

import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamtune.device import memory
from dreamtune.device.usage import ASKED as VARIABLE
from dreamtune.device.usage import GIB, advice, line, measure

ASKED = {"by": "SLURM", "cpus": 4, "memory_gib": 64.0, "minutes": 720.0}
USED = {"asked": ASKED, "processes": 1, "wall_s": 600.0, "cpu_s": 900.0, "memory_gib": 9.2, "gpu_memory_gib": None}


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "LOCAL_WORLD_SIZE", VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_local_job_is_compared_with_what_the_rules_ask_for() -> None:
    usage = measure(10.0, memory_mb=8192, minutes=60)
    assert usage["asked"] == {"by": "rules", "cpus": None, "memory_gib": 8.0, "minutes": 60}
    assert usage["memory_gib"] == round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 4)
    assert usage["gpu_memory_gib"] is None and usage["processes"] == 1
    assert line(usage).endswith(" of 60 minutes; the rules ask a cluster for as much")


def test_cpu_time_is_that_of_children_too() -> None:
    before = measure(1.0, None, None)["cpu_s"]
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert measure(1.0, None, None)["cpu_s"] - before > 0.29


def test_what_snakemake_says_goes_before_the_rules_own_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile may ask for other amounts than the rules, a later attempt for more."""
    monkeypatch.setenv(VARIABLE, "mem_mb=600 runtime=90 cpus=2")
    told = {"cpus": 2, "memory_gib": 0.5859, "minutes": 90}
    assert measure(10.0, memory_mb=8192, minutes=60)["asked"] == {"by": "rules", **told}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert measure(10.0, memory_mb=8192, minutes=60)["asked"] == {"by": "SLURM", **told}
    monkeypatch.setenv(VARIABLE, "cpus=2")  # as before smoke is finished
    known = {"by": "SLURM", "cpus": 2, "memory_gib": 8.0, "minutes": 60}
    assert measure(10.0, memory_mb=8192, minutes=60)["asked"] == known


def test_several_processes_are_counted_as_the_first() -> None:
    said = line(USED | {"processes": 4})
    assert said.startswith("used 36.8 of 64.0 GiB of memory, 6.0 of 4 CPUs, 10.0 of 720 minutes, by the first of 4 pro")


def test_the_gpus_peak_survives_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"now": 3 * GIB}
    gpu = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 1,
        max_memory_allocated=lambda _: peaks["now"],
        memory_allocated=lambda _: 0,
        reset_peak_memory_stats=lambda _: peaks.update(now=GIB),
    )
    monkeypatch.setattr(torch, "cuda", gpu)
    monkeypatch.setattr(memory, "_before_watch", [])
    assert memory.highest_gib() == 3.0
    memory.watch("cuda")
    assert memory.peak_gib("cuda") == 1.0 and memory.highest_gib() == 3.0
    assert measure(1.0, None, None)["gpu_memory_gib"] == 3.0


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([USED], "score: mem_mb: 14848, cpus_per_task: 2, runtime: 15"),
        ([USED, USED | {"memory_gib": 40.0, "wall_s": 30_000.0}], "score: cpus_per_task: 2"),
        ([USED | {"asked": ASKED | {"by": "rules"}}], None),
        ([USED | {"asked": {"by": "SLURM", "cpus": 1, "memory_gib": 2.0, "minutes": 20}, "memory_gib": 0.1}], None),
        ([USED | {"asked": {"by": "SLURM", "cpus": None, "memory_gib": None, "minutes": None}}], None),
        ([], None),
    ],
)
def test_advice_lowers_what_no_job_of_the_rule_came_near(jobs: list[dict[str, Any]], said: str | None) -> None:
    assert advice(("score", usage) for usage in jobs) == said
