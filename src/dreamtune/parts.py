"""One version made by several jobs: which parts there are, and which of them a job is.

    results/<stage>/<version>/parts/<cut>/2-of-7/      what one job made, and its part.json, written last

The cut is a digest of the version's runtime settings: how many parts there are, and whatever else decides which rows
stand together in a batch. Parts of another cut have another path, so they are never mixed in. Torch-free.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dreamtune.errors import UserError
from dreamtune.versions import describe, digest

T = TypeVar("T")
PARTS = "parts"
PROVENANCE = ("part", "counts", "host", "gpu", "image", "packages", "python", "started", "finished", "wall_s")
# The stages that can be scattered, each with the section of the configuration that says into how many parts.
SECTIONS = {"prepare_shards": "data", "generate_answers": "generate", "evaluate_likelihood": "likelihood"}


@dataclass(frozen=True)
class Part:
    """The `number`th, from 1, of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read "2/7".

        Raises:
            ValueError: it is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no part; write 2/7 for the second of seven")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `of`th item: neighbours, alike in length and cost, go to different parts."""
        return items[self.number - 1 :: self.of]

    def stretch(self, count: int) -> range:
        """Return this part's stretch of range(count), for what is cheaper to read in one piece."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


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
        record = json.loads((folder / "part.json").read_text())
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
