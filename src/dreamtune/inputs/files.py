"""Resolve `files` of the configuration: files on disk, globs, or pinned data files on the Hugging Face hub."""

import glob
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.inputs.hub import HUB, data_file
from dreamtune.inputs.kinds import check_local


def resolve_files(patterns: list[str]) -> list[Path]:
    """Return the files that the patterns match, in the patterns' order, each pattern's matches sorted, none twice.

    Args:
        patterns: paths, globs or hf://datasets/… addresses; a hub file is looked up in the hub's local cache.

    Raises:
        UserError: a pattern matches nothing or a folder, or is another address; or a hub file is not pinned or has not
            been fetched.
    """
    if not patterns:
        raise UserError("no data files are named; name at least one file or glob")
    found: dict[Path, None] = {}
    for pattern in patterns:
        for path in [data_file(pattern)] if pattern.startswith(HUB) else _local_files(pattern):
            found.setdefault(path)
    return list(found)


def _local_files(pattern: str) -> list[Path]:
    check_local(pattern)
    expanded = Path(pattern).expanduser()
    if expanded.is_dir():
        raise UserError(f"{pattern} is a folder; name the files in it, for instance {pattern.rstrip('/')}/*.parquet")
    # An existing file is taken by its name, even if brackets in it make it look like a glob. Path.glob would refuse
    # absolute patterns.
    matches = [expanded] if expanded.exists() else [Path(p) for p in glob.glob(str(expanded), recursive=True)]  # noqa: PTH207
    files = sorted(path for path in matches if path.is_file())
    if not files:
        raise UserError(f"no file matches {pattern} (looked from {Path.cwd()})")
    return files
