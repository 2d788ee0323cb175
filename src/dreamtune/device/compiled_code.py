"""Compiled code as a cache: a job compiles into a folder of its own, and what it compiled serves the next job.

torch and Triton write while they compile, and several jobs that share their folder over a network file system have
crashed each other (triton#11512, pytorch#173679). So a job's folder lies on the node, in TMPDIR. It begins as a copy of
the *bundle* in the job's caches and, if something was compiled, becomes the next bundle. A bundle is a tar of the whole
folder: torch's own bundle (`torch.compiler.save_cache_artifacts`) lacks Triton's files (pytorch#172542). torch looks
code up by a digest of what it was compiled from, so that a bundle of other models or settings does no harm.
"""

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from platform import python_version
from typing import Any

import torch

from dreamtune.device.caches import Caches, job_caches, only_maker
from dreamtune.digests import describe, digest, sha256_file
from dreamtune.files import read_json, write_json
from dreamtune.interruption import Interrupted

BUNDLE, RECORD = "bundle.tar", "cache.json"
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}  # below the job's folder
UNKEPT = ("locks",)  # folders without code
# Python 3.11.4 brought the filter, and from 3.12 on it is asked for; Debian 12 has 3.11.2.
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@contextmanager
def compiled_code(device: torch.device | str) -> Iterator[None]:
    """Compile into a folder of this process within the block; begin with the bundle, and publish the next one.

    Nothing is done outside of a job, without caches, or on the CPU, where nothing is compiled unless it is asked for.
    Of several processes only the first publishes, and none after an exception but `Interrupted`.

    Args:
        device: that the code is compiled for.
    """
    caches = job_caches()
    if caches is None or torch.device(device).type != "cuda":
        yield
        return
    with shared(caches, toolchain(torch.device(device)), publishes=os.environ.get("RANK", "0") == "0"):
        yield


@contextmanager
def shared(caches: Caches, about: dict[str, Any], publishes: bool = True) -> Iterator[Path]:
    """Compile into a new folder within the block, and yield it; see `compiled_code`.

    Args:
        caches: of the job.
        about: all that the code depends on beside its source, see `toolchain`; its digest names the bundle.
        publishes: whether this process publishes what it compiled.
    """
    entry = caches.folder / "compiled" / digest(about)
    before = {name: os.environ.get(name) for name in FOLDERS}
    folder = Path(tempfile.mkdtemp(prefix="dreamtune-compiled-"))
    try:
        os.environ |= {name: str(folder / below) for name, below in FOLDERS.items()}
        taken = unpack(entry, folder)
        if taken:
            caches.taken["compiled"] = taken[:12]
        there, stopped = contents(folder), None
        try:
            yield folder
        except Interrupted as error:  # a job that is stopped goes on in another process, which need not compile again
            stopped = error
        if new := contents(folder) - there:
            print(f"compiled code: {len(new)} new files; {lookups()}", file=sys.stderr)
        if new and publishes:
            publish(entry, folder, about, taken)
        if stopped:
            raise stopped
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def toolchain(device: torch.device) -> dict[str, Any]:
    """Return what compiled code depends on beside its source: the card, torch, CUDA, Triton, Python."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "card": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "python": python_version(),
    }


def contents(folder: Path) -> set[str]:
    """Return the files in a job's folder that are worth keeping, relative to it."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not set(UNKEPT) & set(path.parts)}


def unpack(entry: Path, folder: Path) -> str | None:
    """Unpack the bundle in `entry` into `folder`, and return its SHA-256; None if there is none, or it is damaged.

    Files that are there already stay. What is damaged is said on stderr, none of it is left, and the job compiles.
    """
    there = contents(folder)
    try:
        sha256 = sha256_file(entry / BUNDLE)
        record = read_json(entry / RECORD)
        if not isinstance(record, dict) or record.get("sha256") != sha256:
            raise ValueError("its SHA-256 is not the recorded one")
        with tarfile.open(entry / BUNDLE) as bundle:
            members = [member for member in bundle if member.name not in there]
            if strange := [member.name for member in members if not _is_plain(member)]:
                raise ValueError(f"it holds {strange[0]!r}, which is no file below its folder")
            bundle.extractall(folder, members, **FILTER)
        return sha256
    except FileNotFoundError:
        return None
    except (OSError, ValueError, tarfile.TarError) as error:
        print(f"{entry} is damaged ({error}); compiling", file=sys.stderr)
        for name in contents(folder) - there:
            (folder / name).unlink()
        return None


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Return whether a member of a bundle is an ordinary file that is unpacked below the folder."""
    name = PurePosixPath(member.name)
    return member.isreg() and not name.is_absolute() and ".." not in name.parts


def publish(entry: Path, folder: Path, about: dict[str, Any], taken: str | None) -> None:
    """Make the content of `folder` the next bundle, together with what others published since this job began.

    Args:
        entry: of the cache.
        taken: SHA-256 of the bundle that the job began with.
    """
    with only_maker(entry, lambda: False) as private:
        if private is None:
            return  # another job publishes just now; this one's code is compiled once more
        with suppress(OSError):  # there is none, or what stands in its place cannot be read: it is replaced
            if sha256_file(entry / BUNDLE) != taken:
                unpack(entry, folder)
        with tarfile.open(private / BUNDLE, "w") as bundle:
            for name in sorted(contents(folder)):
                with suppress(FileNotFoundError):  # the compiler's other processes rename what they have written
                    bundle.add(folder / name, name, recursive=False)
        write_json(private / RECORD, {"about": about, **describe(private / BUNDLE)})


def lookups() -> str:
    """Return in words how often the compiler found code in its caches, in this process."""
    from torch._dynamo.utils import counters  # the compiler, whose import takes seconds

    graphs, autograd = counters["inductor"], counters["aot_autograd"]
    found = [graphs["fxgraph_cache_hit"], graphs["fxgraph_cache_miss"], graphs["fxgraph_cache_bypass"]]
    traced = [autograd[f"autograd_cache_{kind}"] for kind in ("hit", "miss", "bypass")]
    said = "{} found, {} not, {} not looked up"
    return f"kernels {said.format(*found)}; traced graphs {said.format(*traced)}"
