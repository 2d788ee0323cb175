"""The clock is set back by a year while a job runs: no duration in what it files is negative."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from attacks.targets import TARGETS, Attacked, Finished
from attacks.undisturbed import check_finished, draw, undisturbed

FILING = [name for name in TARGETS if name not in ("publish", "prune")]
DURATION = ("_s", "seconds", "minutes", "hours", "wall", "_ms")


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a JSON value, each with the key that it stands under, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float):
        yield name, value


def durations(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield each duration in the JSON files and tables of a folder, with its name."""
    for path in folder.rglob("*.json*"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            yield from ((f"{path}: {name}", value) for name, value in numbers(json.loads(line)) if is_one(name))
    for path in folder.rglob("*.parquet"):
        frame = pl.read_parquet(path)
        for name in filter(is_one, frame.columns):
            yield f"{path}: {name}", frame[name].min()  # type: ignore[misc]


def is_one(name: str) -> bool:
    return name.endswith(DURATION) and not name.endswith("per_s")


@pytest.mark.parametrize("case", range(1))
@pytest.mark.parametrize("target", FILING)
def test_a_clock_that_is_set_back(
    target: str, case: int, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    instant = draw("clock", target, case).randint(1, expected.instants)
    status, said = attacked.run("clock", str(instant))
    record_property("struck", f"{target}: clock set back")
    assert status == 0, said
    assert attacked.version
    found = list(durations(attacked.folder / attacked.version))
    assert found and [(name, value) for name, value in found if not 0 <= value < 3600] == []
    if attacked.is_finished():
        manifest = attacked.read("manifest.json")
        assert manifest["started"] <= manifest["finished"]
    check_finished(attacked, expected)


@pytest.mark.parametrize("target", ["full"])
def test_a_training_resumed_after_the_clock_was_set_back(
    target: str, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    """Its checkpoint lies in the future; so do the folders that a killed attempt left."""
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    status, _ = attacked.run("SIGKILL", str(expected.instants // 2))
    record_property("struck", f"{target}: clock set back")
    assert status < 0 and attacked.checkpoints()
    for path in (attacked.folder / "results").rglob("*"):
        os.utime(path, (path.lstat().st_mtime + 365 * 86400,) * 2, follow_symlinks=False)
    check_finished(attacked, expected)
