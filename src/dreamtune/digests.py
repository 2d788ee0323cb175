"""SHA-256 digests of JSON values and of files, by which versions, manifests and checkpoints identify them."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """Return the first 12 hex digits of a JSON value's SHA-256; the order of keys does not matter.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FileMark = tuple[int, int, int]


def mark(path: Path) -> FileMark:
    """Return size, time of change and inode of a file, of which one differs after it was replaced or written to."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def describe(path: Path) -> dict[str, Any]:
    """Return a file's entry in a manifest: its SHA-256 (64 hex digits) and its size in bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}
