"""A manifest names the processor, so that the report can say on what a model was trained, and the code's commit."""

import importlib.metadata
import platform
from pathlib import Path

import pytest

from dreamtune.workflow import provenance as module
from dreamtune.workflow.provenance import provenance


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9354\nmodel name\t: AMD EPYC 9354\n", "AMD EPYC 9354"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.machine()),  # as on ARM
    ],
)
def test_the_processors_name(cpuinfo: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    said = lambda path, **kept: cpuinfo if str(path) == "/proc/cpuinfo" else read(path, **kept)  # noqa: E731
    monkeypatch.setattr(Path, "read_text", said)
    assert provenance()["cpu"] == name


@pytest.mark.parametrize(
    ("origin", "commit"),
    [
        ('{"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}}', "0a1b"),
        ('{"url": "file:///somewhere", "dir_info": {}}', None),
        (None, None),
    ],
)
def test_an_installed_package_has_the_commit_that_pip_fetched(
    origin: str | None, commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the repository in which it happens to be installed."""

    class Installed(importlib.metadata.PathDistribution):
        def read_text(self, filename: str) -> str | None:
            return origin if filename == "direct_url.json" else None

    monkeypatch.setattr(module, "INSTALLED", True)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(tmp_path))
    assert provenance()["git"] == ({"commit": commit, "dirty": False} if commit else None)
