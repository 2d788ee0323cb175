"""A manifest names the processor, so that the report can say on what a model was trained."""

import platform
from pathlib import Path

import pytest

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
