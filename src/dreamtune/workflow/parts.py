"""One version made by several jobs: which parts there are, and which of them a job is.

    results/<stage>/<version>/parts/<cut>/2-of-7/      what one job made, and its part.json, written last

The cut is a digest of the version's runtime settings: how many parts there are, and whatever else decides which rows
stand together in a batch. Parts of another cut have another path, so they are never mixed in. Torch-free.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.digests import describe, digest
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.part import Part

PARTS = "parts"
PROVENANCE = ("part", "counts", "host", "gpu", "image", "packages", "python", "started", "finished", "wall_s")
# The stages that can be scattered, each with the section of the configuration that says into how many parts.
SECTIONS = {"prepare_shards": "data", "generate_answers": "generate", "evaluate_likelihood": "likelihood"}


def parts_of(spec: Mapping[str, Any]) -> list[Part]:
    """Return the parts of a version, as its frozen specification has it; none if one job makes all of it."""
    section = SECTIONS.get(spec["stage"])
    count = spec["runtime"].get(section, {}).get("scatter", 1)
    return [Part(number, count) for number in range(1, count + 1)] if count > 1 else []


def folder_of(spec: Mapping[str, Any], part: Part) -> Path:
    """Return a part's folder, within that of its version."""
    return Path(PARTS) / digest(spec["runtime"]) / str(part)


def read_part(folder: Path, version: str) -> dict[str, Any]:
    """Return how a part was made, after a look at every byte of it.

    Raises:
        UserError: it is not finished, or was changed since.
    """
    try:
        record = read_json(folder / "part.json")
        found = {name: describe(folder / name) for name in record["outputs"]}
    except FileNotFoundError as error:
        raise UserError(f"part {folder.name} is not finished (no {error.filename}); run snakemake to make it") from None
    if record["version"] != version or found != record["outputs"]:
        raise UserError(f"{folder} is not what its part.json says; delete that folder and start snakemake again")
    return {name: record[name] for name in PROVENANCE}


def together(gathering: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a manifest says of all jobs of a version: the first start, the seconds of all, the parts' GPUs."""
    if not parts:
        return {}
    jobs = [*parts, gathering]
    return {
        "parts": list(parts),
        "gpu": ", ".join(sorted({part["gpu"] for part in parts if part["gpu"]})) or None,
        "started": min(job["started"] for job in jobs),
        "wall_s": round(sum(job["wall_s"] for job in jobs), 3),
    }
