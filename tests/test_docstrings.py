"""Docstrings are true: their examples give what they show, and the objective's steps name functions that exist."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from dreamtune.objective import diffusion

SOURCE = Path(__file__).parents[1] / "src"
ILLUSTRATIONS = {"dreamtune.progress", "dreamtune.workflow.stage"}  # a use of the class, without what it works on
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", sorted(set(MODULES) - ILLUSTRATIONS))
def test_the_examples_in_docstrings_are_right(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted and not found.failed


def test_the_steps_of_the_objective_name_functions_that_exist() -> None:
    steps = re.findall(r"  ([a-z_]+(?:\.[a-z_]+)+)$", diffusion.__doc__ or "", re.MULTILINE)
    assert len(steps) == 13
    for step in steps:
        module, _, name = step.rpartition(".")
        assert callable(getattr(importlib.import_module(f"dreamtune.{module}"), name))


def test_the_glossary_points_at_files_that_exist() -> None:
    docs = SOURCE.parent / "docs"
    links = re.findall(r"\]\(([^)]+)\)", (docs / "glossary.md").read_text(encoding="utf-8"))
    assert len(links) > 20
    assert [link for link in links if not leads_somewhere(docs, link)] == []


def leads_somewhere(folder: Path, link: str) -> bool:
    """Return whether a link's file exists, and has the heading that stands behind `#`."""
    name, _, anchor = link.partition("#")
    if not (folder / name).exists():
        return False
    text = (folder / name).read_text(encoding="utf-8") if anchor else ""
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    return not anchor or anchor in headings
