"""The parts of a version that several jobs make (`scatter` in the configuration): their folders and records.

    results/<stage>/<version>/parts/<cut>/2-of-7/      one job's output, and its part.json, which is written last

The cut is a digest of the version's runtime settings: the number of parts, and all that decides which rows are computed
in one batch. Parts of different cuts have different paths, so they are never mixed. Torch-free.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.digests import digest
from dreamtune.part import Part
from dreamtune.workflow.verification import verify_part

PARTS = "parts"
PROVENANCE = ("part", "counts", "host", "gpu", "image", "packages", "python", "started", "finished", "wall_s")
USAGE = "usage"  # of the part's job; parts of earlier releases have none
# The stages that can be made in parts, each with the section whose field `scatter` is the number of parts.
SECTIONS = {"prepare_shards": "data", "generate_answers": "generate", "evaluate_likelihood": "likelihood"}


def parts_of(spec: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a version by its frozen specification; [] if one job makes the whole version."""
    section = SECTIONS.get(spec["stage"])
    count = spec["runtime"].get(section, {}).get("scatter", 1)
    return [Part(number, count) for number in range(1, count + 1)] if count > 1 else []


def folder_of(spec: Mapping[str, Any], part: Part) -> Path:
    """Return a part's folder, relative to the folder of its version."""
    return Path(PARTS) / digest(spec["runtime"]) / str(part)


def read_part(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Verify the digests of a part's files; return its record: counts, host, packages, times.

    Args:
        folder: of the part.
        spec: specification of the version that it is part of.

    Raises:
        UserError: the part is not finished, belongs to another version, or a file was changed since.
    """
    record = verify_part(folder, spec)
    return {name: record[name] for name in PROVENANCE} | {USAGE: record.get(USAGE)}


def combined_record(gathering: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the manifest's fields that cover all jobs of a version: first start, sum of wall times, the parts' GPUs.

    The usage is that of the job that took the most memory.

    Args:
        gathering: record of the job that gathers the parts.
        parts: records of the parts' jobs, from `read_part`; without any, the result is {}.
    """
    if not parts:
        return {}
    jobs = [*parts, gathering]
    return {
        "parts": list(parts),
        "gpu": ", ".join(sorted({part["gpu"] for part in parts if part["gpu"]})) or None,
        "started": min(job["started"] for job in jobs),
        "wall_s": round(sum(job["wall_s"] for job in jobs), 3),
        USAGE: max((job[USAGE] for job in jobs if job[USAGE]), key=lambda usage: usage["memory_gib"]),
    }
