"""Every distribution that is pinned has a licence in the list, and every one that is asked for a line of reason."""

import csv
import re
import runpy
import tomllib
from email.message import Message
from itertools import chain

import pytest

from conftest import ROOT
from dreamtune.export.export import PACKAGES

LICENCES = runpy.run_path(str(ROOT / "containers/licences.py"))


def test_the_list_is_that_of_the_lock() -> None:
    with (ROOT / "docs/licences.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lock = (ROOT / "containers/requirements.lock").read_text(encoding="utf-8")
    assert {row["distribution"]: row["version"] for row in rows} == LICENCES["pinned"](lock), (
        "run make setup, then make licences"
    )
    assert all(row["licence"] for row in rows)


def test_each_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[=<>]", name)[0] for name in asked}
    table = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").split("## Written by hand")[0]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"[a-z0-9_-]+", line.split("|")[1])
    }
    assert names <= named, names - named


def test_clients_that_no_stage_needs_are_not_in_the_environment() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for lock in ("requirements.lock", "requirements-slurm.lock"):
        pinned = LICENCES["pinned"]((ROOT / "containers" / lock).read_text(encoding="utf-8"))
        unlocked = {*extras["gguf"], *extras["mlflow"], *extras["wandb"]} - {"sqlalchemy"}  # which snakemake brings
        assert not unlocked & pinned.keys()
    for to in ("mlflow", "wandb"):
        assert sorted(PACKAGES[to].split()) == extras[to], "what the line on a missing client says to install"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT", "License": "see file"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "Apache 2.0\nlong text"}, "Apache 2.0"),
    ],
)
def test_a_licence_is_read_where_it_is_stated(fields: dict[str, str], expected: str) -> None:
    assert LICENCES["licence"](message(fields)) == expected


def test_no_licence_is_an_error() -> None:
    with pytest.raises(ValueError, match="none states no licence"):
        LICENCES["licence"](message({"Name": "none"}))


def message(fields: dict[str, str]) -> Message:
    found = Message()
    for name, value in fields.items():
        found[name] = value
    return found
