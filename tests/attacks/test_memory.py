"""Jobs that run out of memory: killed by the kernel at a cgroup's limit, or refused memory at the process's own limit.

Nothing is filed, no memory is a reason for a traceback, and the next run completes.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from attacks.targets import Attacked, Finished
from attacks.undisturbed import check_finished, draw, undisturbed

HUNGRY = ("prepare_shards", "smoke", "full", "generate_answers", "likelihood_part", "render_report", "merge_adapter")
ROOT = Path("/sys/fs/cgroup")
# Of the two versions of cgroups: the parent of a new group, and its files of the limit and of the peak.
FIRST, SECOND = ("memory.limit_in_bytes", "memory.max_usage_in_bytes"), ("memory.max", "memory.peak")
VERSIONS = {ROOT / "memory": FIRST, ROOT: SECOND}
PEAK: dict[str, int] = {}
MIB = 2**20


class Group:
    """A memory cgroup."""

    def __init__(self, parent: Path, name: str) -> None:
        self.folder, (self.limit, self.peak) = parent / name, VERSIONS[parent]
        self.folder.mkdir()
        if not (self.folder / self.limit).exists():
            self.folder.rmdir()
            raise OSError(f"{self.folder} limits no memory")
        self.processes = self.folder / "cgroup.procs"

    def set_limit(self, count: int) -> None:
        (self.folder / self.limit).write_text(str(count))
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with suppress(OSError):
                (self.folder / swap).write_text(str(count if "memsw" in swap else 0))


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    for parent in VERSIONS:
        with suppress(OSError):
            made = Group(parent, f"attack-{os.getpid()}")
            break
    else:
        pytest.skip("no memory cgroup can be made here: that takes root, and a cgroup file system that is writable")
    yield made
    made.folder.rmdir()


def peak_of(target: str, finished: Finished, group: Group, folder: Path) -> int:
    """Return the most memory in bytes that the target's job takes in a group of its own."""
    if target not in PEAK:
        status, said = finished.attacked(target, folder).run("within", str(group.processes))
        assert status == 0, said
        PEAK[target] = int((group.folder / group.peak).read_text())
    return PEAK[target]


@pytest.mark.parametrize("case", range(2))
@pytest.mark.parametrize("target", HUNGRY)
def test_killed_at_the_limit_of_a_cgroup(
    target: str,
    case: int,
    group: Group,
    attacked: Attacked,
    finished: Finished,
    tmp_path: Path,
    record_property: Any,
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    peak = peak_of(target, finished, group, tmp_path / "peak")
    limit = int(peak * draw("memory", target, case).uniform(0.2, 0.9))
    group.set_limit(limit)
    status, said = attacked.run("within", str(group.processes))
    print(f"{limit / MIB:.0f} of {peak / MIB:.0f} MiB, status {status}:\n{said}")
    record_property("struck", f"{target}: out of memory" if status else "enough memory")
    if status:
        assert "Traceback" not in said
    attacked.check_whole()
    check_finished(attacked, expected)


@pytest.mark.parametrize("case", range(1))
@pytest.mark.parametrize("target", HUNGRY)
def test_refused_by_the_limit_of_the_process(
    target: str, case: int, attacked: Attacked, finished: Finished, tmp_path: Path, record_property: Any
) -> None:
    expected = undisturbed(finished, target, tmp_path / "undisturbed")
    more = int(draw("address", target, case).uniform(5, 400))
    status, said = attacked.run("address", str(more))
    print(f"{more} MiB more than at the start, status {status}:\n{said}")
    record_property("struck", f"{target}: memory refused" if status else "enough memory")
    if status:
        assert status < 0 or "Traceback" not in said
    attacked.check_whole()
    check_finished(attacked, expected)
