"""Whether the process that writes a folder is still alive: what is known, and what is not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from dreamtune import writers
from dreamtune.writers import is_gone, one_at_a_time, writer_name


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


def test_one_process_at_a_time_and_none_waits_for_a_killed_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dreamtune.writers import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1])): print('holds it', flush=True); input()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command, pipes = [sys.executable, "-c", code, str(tmp_path)], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    got = []

    def take() -> None:
        with one_at_a_time(tmp_path):
            got.append(True)

    with subprocess.Popen(command, env=environment, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"holds it\n"
        waits = Thread(target=take)
        waits.start()
        waits.join(0.3)
        assert not got
        holder.kill()
        waits.join(5)
    assert got and not list(tmp_path.iterdir())


def test_without_locks_or_after_a_long_wait_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writers, "LONGEST_S", 0.2)
    with one_at_a_time(tmp_path), one_at_a_time(tmp_path):
        said = capsys.readouterr().err
    assert said == f"{tmp_path}/.lock: another process has held it for 0 s; going on without the lock\n"

    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with one_at_a_time(tmp_path):
        assert capsys.readouterr().err == f"{tmp_path}/.lock: Function not implemented; going on without the lock\n"


def test_many_at_once_never_hold_it_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holder removes the file that the others wait for."""
    inside: list[int] = []
    most: list[int] = []

    def take() -> None:
        for _ in range(30):
            with one_at_a_time(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    monkeypatch.setattr(writers, "PAUSE_S", 0.0)
    threads = [Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 120
