"""A place to make studies in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overview.studies import Studies


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """What runs measured, made once."""
    return Studies(tmp_path_factory.mktemp("kinds"))


@pytest.fixture
def studies(kinds: Studies, tmp_path: Path) -> Iterator[Studies]:
    """The same, in a folder of the test's own."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield kinds
    os.chdir(before)
