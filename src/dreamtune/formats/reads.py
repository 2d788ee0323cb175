"""Read the finished version folders of an experiment, from which its report is made.

A folder or file that the experiment does not have is no error: the result is then empty or None.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.errors import UserError
from dreamtune.files import finite
from dreamtune.formats.answers import GENERATION_FILE
from dreamtune.formats.likelihood import BINS_FILE
from dreamtune.formats.training import GATE_FILE

TRAINING_RUNS = ("smoke", "full")


class Reads:
    """The version folders of one experiment, by name.

    Names: "shards", "references", "smoke", "full", "likelihood", "answers/SET/SETTING/WHO",
    "scores/SET/SETTING/WHO" and "contamination/SET", where SET is "test" or a benchmark,
    SETTING "greedy" or "sampled", and WHO "base" or "tuned", or, with worked examples, "few-shot-base" or
    "few-shot-tuned".
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)

    def has(self, name: str, file: str) -> bool:
        """Whether the folder is part of this experiment and holds the file."""
        return name in self.folders and (self.folders[name] / file).exists()

    def json(self, name: str, file: str) -> dict[str, Any]:
        """Return a JSON object, or {} where there is no file. NaN and infinities become None.

        Raises:
            UserError: the file is not JSON.
        """
        if not self.has(name, file):
            return {}
        content: dict[str, Any] = finite(_parse(self.folders[name] / file))
        return content

    def json_lines(self, name: str, file: str) -> list[dict[str, Any]]:
        """Return one object per line, [] where there is no file; lines cut off by a kill are left out."""
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
        """Return the table of a parquet file, or None where there is no file."""
        return pl.read_parquet(self.folders[name] / file) if self.has(name, file) else None

    def lazy(self, name: str, file: str) -> pl.LazyFrame | None:
        """Return a parquet file as a lazy table, of which only some rows are read; None where there is no file."""
        return pl.scan_parquet(self.folders[name] / file) if self.has(name, file) else None

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifest of every folder, by the folder's name."""
        return {name: self.json(name, "manifest.json") for name in self.folders}

    def comparisons(self) -> list[tuple[str, str]]:
        """Return the (SET, SETTING) for which both models were scored; ("test", "greedy") first."""
        found = {tuple(name.split("/")[1:3]) for name in self.folders if name.startswith("scores/")}
        paired = [(s, g) for s, g in found if all(f"scores/{s}/{g}/{who}" in self.folders for who in ("base", "tuned"))]
        return sorted(paired, key=lambda pair: (pair[0] != "test", pair[0], pair[1] != "greedy", pair[1]))


def collect_canaries(reads: Reads) -> list[dict[str, Any]]:
    """Return the hard and soft canaries of both training runs, of the likelihood and of all answers.

    Each is a check (see `dreamtune.checks`) with the name of its folder as "source".
    """
    found = []
    for source, file, key in (
        *((run, GATE_FILE, "checks") for run in TRAINING_RUNS),
        ("likelihood", BINS_FILE, "canaries"),
        *((name, GENERATION_FILE, "canaries") for name in reads.folders if name.startswith("answers/")),
    ):
        for check in reads.json(source, file).get(key, []):
            found.append({"source": source} | check)
    return found


def gates_of(reads: Reads) -> dict[str, bool | None]:
    """Return by training run whether its gate passed; None where the run left no gate.json."""
    return {run: reads.json(run, GATE_FILE).get("passed") for run in TRAINING_RUNS if run in reads.folders}


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); delete its version folder and run again") from None
