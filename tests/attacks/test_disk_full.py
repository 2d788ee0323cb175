"""The disk becomes full in the middle of each kind of job: one line, nothing half-written; with room it completes.

The disk is a tmpfs that has room for a drawn part of what the job writes. Where none may be mounted, and besides, the
file operations fail from a drawn one on.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attacks.targets import TARGETS, Attacked, Finished
from attacks.undisturbed import check_finished, draw, undisturbed

WRITING = [name for name in TARGETS if name != "prune"]  # which only deletes
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, mounted where the target's results will lie."""
    folder = tmp_path / "attacked/results"
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def room(disk: Path, more_bytes: int) -> None:
    """Let the disk have room for so much more than lies on it."""
    found = subprocess.run(["df", "--output=used", "--block-size=1", disk], capture_output=True, text=True, check=True)
    whole = int(found.stdout.split()[-1]) + more_bytes
    subprocess.run(["mount", "-o", f"remount,size={max(whole, PAGE)}", disk], check=True)


def check_refused(job: Attacked, status: int, said: str) -> None:
    """Check that a job ended for want of room in one line, and left nothing half-written."""
    assert status == 1, said
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.startswith(f"{job.target.script}: ")]
    assert "the disk is full: cannot write to " in line
    assert not job.is_finished()
    half = [path for path in (job.folder / "results").rglob(".*") if path.name.count(".") > 3]
    assert half == []
    job.check_whole()


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("target", WRITING)
def test_a_disk_without_room(
    target: str, case: int, disk: Path, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    bytes_left = int(draw("disk", target, case).uniform(0, expected.added_bytes))
    room(disk, bytes_left)
    status, said = attacked.run()
    print(f"{bytes_left} of {expected.added_bytes} bytes, status {status}:\n{said}")
    record_property("struck", f"{target}: disk full" if status else "all fitted in")
    if status:
        check_refused(attacked, status, said)
    room(disk, 2**28)
    check_finished(attacked, expected)


@pytest.mark.parametrize("case", range(2))
@pytest.mark.parametrize("target", WRITING)
def test_operations_that_fail_for_want_of_room(
    target: str, case: int, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    instant = draw("full", target, case).randint(1, expected.instants)
    status, said = attacked.run("full", str(instant))
    print(f"from operation {instant} of {expected.instants} on, status {status}:\n{said}")
    record_property("struck", f"{target}: no room" if status else "no room needed any more")
    if status:
        check_refused(attacked, status, said)
    check_finished(attacked, expected)


def test_the_disk_is_as_small_as_asked(disk: Path) -> None:
    room(disk, 10 * PAGE)
    with pytest.raises(OSError, match="No space left on device"):
        (disk / "file").write_bytes(b"x" * 11 * PAGE)
