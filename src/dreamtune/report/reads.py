"""The finished version folders a report is made of. A part that an experiment does not have is None, not an error."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.errors import UserError
from dreamtune.files import finite


class Reads:
    """Folders by name: "shards", "smoke", "full", "likelihood", "answers/SET/SETTING/WHO", "scores/…", …"""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)

    def has(self, name: str, file: str) -> bool:
        """Whether the folder is part of this experiment and holds the file."""
        return name in self.folders and (self.folders[name] / file).exists()

    def json(self, name: str, file: str) -> dict[str, Any]:
        """Return a JSON object, or {} where there is none. What is not a finite number is null."""
        if not self.has(name, file):
            return {}
        content: dict[str, Any] = finite(_parse(self.folders[name] / file))
        return content

    def json_lines(self, name: str, file: str) -> list[dict[str, Any]]:
        """Return one object per line; a last line that was cut by a kill is left out."""
        if not self.has(name, file):
            return []
        rows = []
        for line in (self.folders[name] / file).read_text(encoding="utf-8").splitlines():
            try:
                rows.append(finite(json.loads(line)))
            except json.JSONDecodeError:
                continue
        return rows

    def table(self, name: str, file: str) -> pl.DataFrame | None:
        """Return a parquet file, or None where there is none."""
        return pl.read_parquet(self.folders[name] / file) if self.has(name, file) else None

    def lazy(self, name: str, file: str) -> pl.LazyFrame | None:
        """Return a parquet file of which only a part will be read, or None where there is none."""
        return pl.scan_parquet(self.folders[name] / file) if self.has(name, file) else None

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return every folder's manifest by name."""
        return {name: self.json(name, "manifest.json") for name in self.folders}

    def comparisons(self) -> list[tuple[str, str]]:
        """Return (question set, generation setting) of every pair of scores; the test split, greedy, first."""
        found = {tuple(name.split("/")[1:3]) for name in self.folders if name.startswith("scores/")}
        paired = [(s, g) for s, g in found if all(f"scores/{s}/{g}/{who}" in self.folders for who in ("base", "tuned"))]
        return sorted(paired, key=lambda pair: (pair[0] != "test", pair[0], pair[1] != "greedy", pair[1]))


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); delete its version folder and run again") from None
