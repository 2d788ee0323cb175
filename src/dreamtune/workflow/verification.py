"""Verify a version's files against its manifest before they are read, so that a damaged file is never used.

A manifest holds size and SHA-256 of each file that its stage wrote. It must name the stage and the version of the
folder it lies in, and what it says the version was hashed from must hash to that version. Files below LARGE bytes are
hashed each time. A larger one is hashed again only if its size, time of change or inode differ from those remembered
in `.digests.json` beside the manifest: one file per version, so that jobs of different versions never write the same.
Torch-free.
"""

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from dreamtune.digests import FileMark, digest, mark, sha256_file
from dreamtune.errors import UserError
from dreamtune.files import json_bytes, read_json, write_json
from dreamtune.formats.halving import DECIDED, HALVE_FILE

MANIFEST, FROZEN, MEMORY = "manifest.json", "config.json", ".digests.json"
FAILURE = "failure.json"  # why the job failed, while there is no manifest; see `endings.failures`
LARGE = 2**30  # bytes
HASHED = ("stage", "settings", "inputs", "reads", "code")  # fields of a specification that its version is hashed from
# Beside its output a version's folder holds these, which no other stage reads, and hidden files.
BESIDE = {MANIFEST, FROZEN, "job.log", "benchmark.tsv", "checkpoints", "parts", "part.json", FAILURE}
# What a stage does not read of another stage's output, and so does not verify: STAGE -> stage read -> files, folders.
UNREAD: dict[str, dict[str, tuple[str, ...]]] = {
    "train_adapter": {"train_adapter": ("adapter", "model")},  # full reads of smoke the gate alone
    "generate_answers": {"prepare_shards": ("train",)},  # a study may ask the validation rows
    "audit_references": {"prepare_shards": ("train",)},
    "merge_adapter": {"prepare_shards": ("train", "validation")},
    "render_report": {"prepare_shards": ("train", "validation", "test"), "train_adapter": ("adapter", "model")},
    "study": {"train_adapter": ("adapter", "model")},
    "confirm": {"train_adapter": ("adapter", "model")},
    "halve": {"train_adapter": ("reached",)},
}
PAUSES = 20  # of a tenth of a second, in which another writer of the same version may finish


def version_of(spec: Mapping[str, Any]) -> str:
    """Return the version of a specification: the digest of its stage, settings, inputs, code and the versions read."""
    reads = {name: Path(folder).name for name, folder in spec["reads"].items()}
    return digest({name: spec[name] for name in HASHED} | {"reads": reads})


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification or manifest as it will be read, with a digest of all its other fields: edits are noticed.

    >>> sealed({"rows": 2})
    {'rows': 2, 'digest': '67456591822c'}
    """
    as_read = json.loads(json_bytes(record))  # its keys are texts, which sort otherwise than numbers
    return {**as_read, "digest": _seal(as_read)}


def read_frozen(folder: Path) -> dict[str, Any]:
    """Return the specification in a version's `config.json`, from which its job runs.

    Raises:
        UserError: there is none, it was changed, or it is that of another version.
    """
    path = folder / FROZEN
    if not path.exists():
        raise UserError(f"{path} does not exist; snakemake writes it, so give --out a version it has planned")
    remedy = _remedy(folder) if (folder / MANIFEST).exists() else "start snakemake again, which writes it anew"
    record = _read(path, remedy)
    _check_name(record, folder, path, remedy)
    return {name: value for name, value in record.items() if name != "digest"}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a finished version's manifest, without verifying the files that it lists.

    Raises:
        UserError: the version is not finished, or the manifest was changed, or is that of another version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{folder} is not finished (no {MANIFEST}); run snakemake to make it")
    record = _read(path, _remedy(folder))
    _check_name(record, folder, path, _remedy(folder))
    return record


def verify(folder: Path, *files: str, unread: Iterable[str] = ()) -> dict[str, Any]:
    """Verify the files of a finished version; return its manifest.

    Another writer of the same version may be moving its output into place just now: it is waited for.

    Args:
        folder: results/STAGE/VERSION.
        files: names of the only files to verify; without any, all that the manifest lists, and that there is no other.
        unread: files and folders in `folder` that are left out.

    Raises:
        UserError: the version is not finished, or not what its manifest says.
    """
    pauses = PAUSES
    while True:
        try:
            record = read_manifest(folder)
            _check_files(folder, record, files, set(unread), f"version {folder.parent.name}/{folder.name}")
            return record
        except UserError:
            pauses -= 1
            if not pauses or not any(folder.glob(".out-*")):
                raise
            time.sleep(0.1)


class Undecided(UserError):
    """A decision that says what a version reads is not made yet; `folder` is its version's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not finished, and decides what is read; run snakemake to make it")
        self.folder = folder


def still_read(reads: Mapping[str, str]) -> dict[str, str]:
    """Return what a version still reads, by name, once the decisions among its reads have stopped some runs.

    Args:
        reads: version folders by "RUN/NAME" or "RUN", and those of decisions by `DECIDED` and a name.

    Raises:
        Undecided: one of the decisions is not made yet.
        UserError: a decision is not what its manifest says.
    """
    stopped: set[str] = set()
    for folder in (Path(folder) for name, folder in reads.items() if name.startswith(DECIDED)):
        if not (folder / MANIFEST).exists():
            raise Undecided(folder)
        stopped |= read_stopped(folder).keys()
    return {name: folder for name, folder in reads.items() if name.partition("/")[0] not in stopped}


def read_stopped(folder: Path) -> dict[str, str]:
    """Return the runs that a version of halve, or one before it, has stopped, each with the reason.

    Raises:
        UserError: the version is not finished, or not what its manifest says.
    """
    verify(folder, HALVE_FILE)
    stopped: dict[str, str] = read_json(folder / HALVE_FILE)["stopped"]
    return stopped


def verify_part(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Verify the files of a finished part of a version; return its record, part.json.

    Args:
        folder: the part's folder, such as …/2-of-7.
        spec: specification of the version.

    Raises:
        UserError: the part is not finished, or not what its record says.
    """
    path, remedy = folder / "part.json", _remedy(folder)
    if not path.exists():
        raise UserError(f"part {folder.name} is not finished (no {path}); run snakemake to make it")
    record = _read(path, remedy)
    if any(record.get(name) != spec[name] for name in ("stage", "version")) or record.get("part") != folder.name:
        raise UserError(f"{path} is not of part {folder.name} of version {spec['stage']}/{spec['version']}; {remedy}")
    _check_files(folder, record, (), set(), f"part {folder.name} of {spec['stage']}/{spec['version']}")
    return record


def remember(folder: Path, found: Mapping[str, tuple[FileMark, str]]) -> None:
    """Note the SHA-256 of the large files among `found`, by name with mark; a folder that is read-only stays as it is.

    Two jobs that note at the same time may lose a line; the file is then read once more.
    """
    if new := {name: [*seen, sha256] for name, (seen, sha256) in found.items() if seen[0] >= LARGE}:
        with suppress(OSError):
            write_json(folder / MEMORY, _remembered(folder) | new)


def _remedy(folder: Path) -> str:
    return f"to have it made again, delete it (rm -r {folder}) and start snakemake"


def _seal(record: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in record.items() if name != "digest"})


def _read(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file; its digest must be right, if it has one: earlier releases wrote none."""
    try:
        record = read_json(path) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({_reason(error)}); {remedy}") from None
    if not isinstance(record, dict) or record.get("digest", _seal(record)) != _seal(record):
        raise UserError(f"{path} was changed after it was written; {remedy}")
    return record


def _check_name(record: Mapping[str, Any], folder: Path, path: Path, remedy: str) -> None:
    """Raise a UserError unless a record names stage and version of `folder`, and hashes to that version."""
    here, there = folder.absolute(), "/".join(str(record.get(name, "?")) for name in ("stage", "version"))
    if there != f"{here.parent.name}/{here.name}":
        raise UserError(f"{path} is of version {there}, not of {here.parent.name}/{here.name}; {remedy}")
    try:
        version = version_of(record)
    except (KeyError, TypeError, AttributeError):
        version = "none"
    if version != here.name:
        raise UserError(f"{path} does not hash to its version {here.name} (but to {version}); {remedy}")


def _check_files(folder: Path, record: Mapping[str, Any], files: Iterable[str], unread: set[str], what: str) -> None:
    """Raise a UserError that names the first file which is not as the record says, or which it does not list."""
    outputs = record.get("outputs")
    if not isinstance(outputs, dict) or not all(_is_entry(entry) for entry in outputs.values()):
        raise UserError(f"{folder}: the manifest of {what} does not list its files; {_remedy(folder)}")
    names = list(files) or [name for name in outputs if name.partition("/")[0] not in unread]
    memory = _remembered(folder)
    for name in names:
        if wrong := _difference(folder, name, outputs.get(name), memory):
            raise UserError(f"{folder / name} of {what} {wrong}; {_remedy(folder)}")
    if not files and (stranger := _stranger(folder, outputs, unread)):
        raise UserError(
            f"{folder / stranger} is not among the files of {what}; move it out of there, or {_remedy(folder)}"
        )


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)


def _difference(folder: Path, name: str, entry: Any, memory: Mapping[str, Any]) -> str | None:
    """Return in what a file differs from its entry in a manifest; None if in nothing."""
    if entry is None:
        return "is not listed in its manifest"
    path = folder / name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is no file"
        if found.st_size != entry["bytes"]:
            return f"has {found.st_size} bytes instead of {entry['bytes']}"
        before = mark(path)
        if before[0] >= LARGE and memory.get(name) == [*before, entry["sha256"]]:
            return None
        if sha256_file(path) != entry["sha256"]:
            return "was changed: its SHA-256 is not that of its manifest"
        if mark(path) == before:
            remember(folder, {name: (before, entry["sha256"])})
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({_reason(error)})"
    return None


def _stranger(folder: Path, outputs: Mapping[str, Any], unread: set[str]) -> str | None:
    """Return the first file or folder that is neither listed nor left out; `model/`, say, would pass for weights."""
    holders = {parent.as_posix() for name in outputs for parent in PurePosixPath(name).parents}
    known = {*outputs, *holders, *BESIDE, *unread}
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        seen = sorted((inside / name).as_posix() for name in [*folders, *names] if not name.startswith("."))
        if strangers := [name for name in seen if name not in known]:
            return strangers[0]
        folders[:] = [f for f in folders if (inside / f).as_posix() in holders - unread]
    return None


def _remembered(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = read_json(folder / MEMORY)
        return found if isinstance(found, dict) else {}
    return {}


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
