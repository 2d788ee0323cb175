"""Whether the process that writes a folder is still alive: what is known, and what is not."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dreamtune import writers
from dreamtune.writers import is_gone, writer_name


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its own `writer_name` and waits."""
    code = "from dreamtune.writers import writer_name; print(writer_name(), flush=True); input()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:  # type: ignore[call-overload]
        yield process
        process.kill()


def test_a_process_is_gone_once_it_was_killed(sleeper: subprocess.Popen[str]) -> None:
    assert sleeper.stdout is not None
    name = sleeper.stdout.readline().strip()
    assert is_gone(name) is False
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name) is True, "a zombie writes no more"
    sleeper.wait()
    assert is_gone(name) is True


def test_a_number_that_was_given_again_is_another_process() -> None:
    place, number, start = writer_name().split("-")
    assert is_gone(f"{place}-{number}-{start}") is False
    assert is_gone(f"{place}-{number}-{int(start) + 1}") is True


@pytest.mark.parametrize("name", ["0" * 12 + "-1-1", "host", "", "a-b"])
def test_of_other_places_nothing_is_known(name: str) -> None:
    assert is_gone(name) is None


def test_another_boot_is_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    name = writer_name()
    monkeypatch.setattr(writers, "_place", lambda: "0" * 12)
    assert is_gone(name) is None
