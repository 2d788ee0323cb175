"""What a job used of what it had asked for: memory, CPUs, time and GPU memory; as a record, a line, and advice.

Figures are those of the process that asks, its children's CPU time included. Torch-free.
"""

import math
import os
import resource
import sys
from collections.abc import Iterable, Mapping
from typing import Any

GIB = 2**30
ASKED = "DREAMTUNE_ASKED"  # environment variable in which Snakemake tells a script what its job has asked for
RULES, SLURM = "rules", "SLURM"  # of whom; without SLURM nothing holds a job to it
AMPLE = 2.0  # times what was used, above which a request is worth lowering
SPARE, AROUND_GIB = 1.5, 0.5  # times what was used, and the memory of the Snakemake in the job, that is advised instead
LEAST_GIB, LEAST_MINUTES = 2.0, 30.0  # requests as small as these are left alone


def measure(wall_s: float, memory_mb: float | None, minutes: float | None) -> dict[str, Any]:
    """Return what this process has used and what was asked for, for the manifest's field `usage`.

    Args:
        wall_s: seconds since the process started.
        memory_mb: what the rule asks for; what Snakemake says in DREAMTUNE_ASKED, after the profile, goes before it.
        minutes: the same of the time.
    """
    told = asked_for(os.environ.get(ASKED, ""))
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, or KiB
    cpu_s = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    memory_mb = told.get("mem_mb", memory_mb)
    return {
        "asked": {
            "by": SLURM if told and "SLURM_JOB_ID" in os.environ else RULES,
            "cpus": told.get("cpus"),
            "memory_gib": memory_mb and round(memory_mb / 1024, 4),
            "minutes": told.get("runtime", minutes),
        },
        "processes": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "memory_gib": round(own.ru_maxrss * unit / GIB, 4),
        "gpu_memory_gib": _gpu_memory_gib(),
    }


def asked_for(told: str) -> dict[str, int]:
    """Return the numbers in a text such as DREAMTUNE_ASKED holds.

    >>> asked_for("mem_mb=4096 runtime=20")
    {'mem_mb': 4096, 'runtime': 20}
    """
    return {name: int(value) for name, value in (word.split("=") for word in told.split())}


def line(usage: Mapping[str, Any]) -> str:
    """Return a record of `measure` as one line.

    >>> asked = {"by": "SLURM", "cpus": 4, "memory_gib": 32.0, "minutes": 720}
    >>> line({"asked": asked, "processes": 1, "wall_s": 90, "cpu_s": 135, "memory_gib": 9.2, "gpu_memory_gib": 21.5})
    'used 9.2 of 32.0 GiB of memory, 1.5 of 4 CPUs, 1.5 of 720 minutes, 21.5 GiB of GPU memory; asked for by SLURM'
    """
    asked = usage["asked"]
    said = [
        f"{_of(usage['memory_gib'] * usage['processes'], asked['memory_gib'], 1)} GiB of memory",
        f"{_of(_cpus(usage), asked['cpus'], 0)} CPUs",
        f"{_of(usage['wall_s'] / 60, asked['minutes'], 0)} minutes",
    ]
    if usage["gpu_memory_gib"] is not None:
        said.append(f"{usage['gpu_memory_gib']:.1f} GiB of GPU memory")
    several = f", by the first of {usage['processes']} processes" if usage["processes"] > 1 else ""
    by = "asked for by SLURM" if asked["by"] == SLURM else "the rules ask a cluster for as much"
    return f"used {', '.join(said)}{several}; {by}"


def advice(usages: Iterable[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Return what to write into the profile for the rules that asked SLURM for much more than all their jobs used.

    Args:
        usages: rule and record of each job.

    >>> asked = {"by": "SLURM", "cpus": 4, "memory_gib": 32.0, "minutes": 60}
    >>> used = {"asked": asked, "processes": 1, "wall_s": 3000, "cpu_s": 9000, "memory_gib": 8.0}
    >>> advice([("generate_answers", used), ("score_answers", used | {"memory_gib": 30.0})])
    'generate_answers: mem_mb: 12800'
    """
    jobs: dict[str, list[Mapping[str, Any]]] = {}
    for rule, usage in usages:
        if usage["asked"]["by"] == SLURM:
            jobs.setdefault(rule, []).append(usage)
    said = [f"{rule}: {', '.join(lower)}" for rule, of in sorted(jobs.items()) if (lower := _lower(of))]
    return "; ".join(said) or None


def _lower(jobs: list[Mapping[str, Any]]) -> list[str]:
    """Return the resources of a rule that could be lowered, as a profile names them, with their values."""
    memory_gib = max(job["memory_gib"] * job["processes"] for job in jobs)
    minutes, cpus = max(job["wall_s"] for job in jobs) / 60, max(map(_cpus, jobs))
    asked = {
        name: min((job["asked"][name] or 0 for job in jobs), default=0) for name in ("memory_gib", "minutes", "cpus")
    }
    lower = []
    if asked["memory_gib"] > max(AMPLE * memory_gib, LEAST_GIB):
        lower.append(f"mem_mb: {256 * math.ceil(4 * (SPARE * memory_gib + AROUND_GIB))}")
    if asked["cpus"] > max(AMPLE * cpus, 1):
        lower.append(f"cpus_per_task: {math.ceil(cpus)}")
    if asked["minutes"] > max(AMPLE * minutes, LEAST_MINUTES):
        lower.append(f"runtime: {math.ceil(max(SPARE * minutes, LEAST_MINUTES / 2))}")
    return lower


def _cpus(usage: Mapping[str, Any]) -> float:
    """Return how many CPUs were busy on average, of all processes if each was as busy as the first."""
    return float(usage["cpu_s"] * usage["processes"] / max(usage["wall_s"], 1e-3))


def _of(used: float, asked: float | None, digits: int) -> str:
    return f"{used:.1f}" if asked is None else f"{used:.1f} of {asked:.{digits}f}"


def _gpu_memory_gib() -> float | None:
    """Return the peak memory that torch has allocated on a GPU; None where no model was on one."""
    memory = sys.modules.get("dreamtune.device.memory")
    peak = memory.highest_gib() if memory else 0.0
    return round(peak, 4) if peak else None
