"""Compiled code of one job serves the next; a bundle that is damaged costs time only."""

import fcntl
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from dreamtune.device import compiled_code
from dreamtune.device.caches import Caches, open_caches
from dreamtune.device.compiled_code import shared
from dreamtune.digests import describe
from dreamtune.files import read_json, write_json
from dreamtune.interruption import Interrupted

ABOUT = {"torch": "1"}


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path / "cache")


def job(caches: Caches, *compiles: str, about: dict[str, str] = ABOUT) -> set[str]:
    """Return what a job found, which compiles these files."""
    with shared(caches, about) as folder:
        found = compiled_code.contents(folder)
        for name in compiles:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    assert not folder.exists()
    return found


def bundle(caches: Caches) -> Path:
    [found] = caches.folder.glob("compiled/*/bundle.tar")
    return found


def test_the_next_job_finds_what_was_compiled(caches: Caches) -> None:
    assert job(caches, "inductor/fxgraph/a", "triton/b.so", "inductor/locks/a.lock") == set()
    first = bundle(caches).stat()
    assert job(caches) == {"inductor/fxgraph/a", "triton/b.so"} and caches.taken.keys() == {"compiled"}
    assert bundle(caches).stat().st_mtime_ns == first.st_mtime_ns  # nothing new, nothing written
    job(caches, "inductor/fxgraph/c")
    assert job(caches) == {"inductor/fxgraph/a", "inductor/fxgraph/c", "triton/b.so"}
    assert job(caches, about={"torch": "2"}) == set()


def test_the_folder_is_the_processs_own_and_the_environment_is_as_before(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "before")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with shared(caches, ABOUT) as folder:
        assert folder.parent == tmp_path and os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == "before" and "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_jobs_side_by_side_lose_nothing(caches: Caches) -> None:
    with shared(caches, ABOUT) as slow:
        (slow / "slow").write_text("slow")
        job(caches, "quick")
    assert job(caches) == {"quick", "slow"}


def test_nobody_waits_for_a_publisher(caches: Caches) -> None:
    job(caches, "a")
    entry = bundle(caches).parent
    with entry.with_name(f".{entry.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job(caches, "b")
    assert job(caches) == {"a"}


@pytest.mark.parametrize("content", [b"", b"no tar", None], ids=["empty", "other", "a bit"])
def test_a_damaged_bundle_means_compiling(
    caches: Caches, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    job(caches, "a")
    damaged = bytearray(bundle(caches).read_bytes())
    damaged[600] ^= 1
    bundle(caches).write_bytes(damaged if content is None else content)
    assert job(caches, "b") == set()
    assert "is damaged (its SHA-256 is not the recorded one); compiling" in capsys.readouterr().err
    assert job(caches) == {"b"}


def test_a_bundle_is_unpacked_by_every_python(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's Python 3.11.2 knows no filter of what an archive holds."""
    unpacked, known = tarfile.TarFile.extractall, compiled_code.FILTER

    def as_before(self: tarfile.TarFile, path: Path, members: list[tarfile.TarInfo]) -> None:
        unpacked(self, path, members, **known)

    monkeypatch.setattr(compiled_code, "FILTER", {})
    monkeypatch.setattr(tarfile.TarFile, "extractall", as_before)
    job(caches, "a")
    assert job(caches) == {"a"}


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "link"])
def test_a_bundle_writes_nothing_outside_of_its_folder(
    caches: Caches, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    job(caches, "a")
    place = bundle(caches)
    with tarfile.open(place, "w") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(member)
    record = place.with_name("cache.json")
    write_json(record, read_json(record) | describe(place))
    assert job(caches, "b") == set()
    assert f"it holds '{name}', which is no file below its folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_what_stands_in_a_bundles_place_is_replaced(caches: Caches, kind: str) -> None:
    """Else no job would publish any more."""
    job(caches, "a")
    place = bundle(caches)
    place.unlink()
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(place)
    assert job(caches, "b") == set()
    assert job(caches) == {"b"}


def test_a_job_does_not_fail_for_a_cache_that_it_cannot_write(
    caches: Caches, capsys: pytest.CaptureFixture[str]
) -> None:
    caches.folder.write_text("")  # where the folder should be made
    assert job(caches, "a") == set()
    assert "cannot keep" in capsys.readouterr().err


def test_a_file_that_was_unpacked_in_part_is_not_published(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full while what another job published meanwhile is unpacked."""

    def full(bundle: tarfile.TarFile, folder: Path, members: list[tarfile.TarInfo], **_: str) -> None:
        (folder / members[0].name).write_text("half of it")
        raise OSError(28, "No space left on device")

    with shared(caches, ABOUT) as slow:
        (slow / "slow").write_text("slow")
        job(caches, "quick")
        monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    monkeypatch.undo()
    assert job(caches) == {"slow"} and "No space left" in capsys.readouterr().err


def test_a_bundle_does_not_write_outside_of_the_folder(caches: Caches, tmp_path: Path) -> None:
    """Whoever writes to results/ can run code by it anyway; an accident shall not."""
    job(caches, "a")
    (tmp_path / "b").write_text("b")
    with tarfile.open(bundle(caches), "w") as tar:
        tar.add(tmp_path / "b", "../../outside")
    record = {"about": ABOUT, **compiled_code.describe(bundle(caches))}
    compiled_code.write_json(bundle(caches).with_name("cache.json"), record)
    assert job(caches) == set()


def test_a_failed_job_and_other_processes_publish_nothing(caches: Caches) -> None:
    with pytest.raises(ZeroDivisionError), shared(caches, ABOUT) as folder:
        (folder / "a").write_text(str(1 / 0))
    with shared(caches, ABOUT, publishes=False) as folder:
        (folder / "a").write_text("a")
    assert not list(caches.folder.glob("compiled/*/bundle.tar"))


def test_a_job_that_was_stopped_publishes(caches: Caches) -> None:
    """It is made again, as preempted jobs are, and would else compile the same at every attempt."""
    with pytest.raises(Interrupted, match="SIGTERM"), shared(caches, ABOUT) as folder:
        (folder / "triton").mkdir()
        (folder / "triton/a").write_text("")
        raise Interrupted("stopped by SIGTERM")
    assert job(caches) == {"triton/a"} and not folder.exists()


def test_the_cpu_and_calls_by_hand_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "before")
    for caches, device in ((None, "cuda"), (tmp_path / "cache", "cpu")):
        open_caches(caches)
        with compiled_code.compiled_code(device):
            assert os.environ["TRITON_CACHE_DIR"] == "before"
        open_caches(None)
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="needs a compiler of C++")
@pytest.mark.slow
def test_the_real_compiler_finds_its_code_again(caches: Caches) -> None:
    def compiled() -> dict[str, int]:
        torch._dynamo.reset()
        counters.clear()
        with shared(caches, ABOUT):
            assert torch.compile(lambda x: (x * 3).relu() + 1)(torch.ones(64)).sum() == 256
        return dict(counters["inductor"])

    assert compiled().get("fxgraph_cache_miss") == 1
    assert compiled().get("fxgraph_cache_hit") == 1


def test_a_file_that_the_compiler_renames_meanwhile_is_left_out(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped job publishes while processes of its compiler may still write."""
    real = compiled_code.contents
    with shared(caches, ABOUT) as folder:
        (folder / "a").write_text("a")
        monkeypatch.setattr(compiled_code, "contents", lambda folder: real(folder) | {"half.tmp"})
    monkeypatch.undo()
    assert job(caches) == {"a"}
