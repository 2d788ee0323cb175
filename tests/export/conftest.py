"""What exports are made from, in a folder of the test's own; the environment is put back, as clients change it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.overview.studies import SHARES, Studies


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """What four runs measured, made once."""
    return Studies(tmp_path_factory.mktemp("measured"), SHARES[-4:])


@pytest.fixture
def studies(measured: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    """The same, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return measured


@pytest.fixture
def summary(studies: Studies) -> dict[str, Any]:
    """What a report says of a run that improved."""
    return studies.summaries[-1]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Put the environment back, which tells clients where to write and not to report their use."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
