"""Where rows come from: parquet files on disk, globs, or pinned files of a dataset on the Hugging Face hub."""

import glob
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.inputs.hub import HUB, data_file


def resolve_files(patterns: list[str]) -> list[Path]:
    """Return the files the patterns name, in the patterns' order, each pattern's matches sorted, none twice.

    Raises:
        UserError: a pattern matches nothing or a folder, or a hub file is not pinned or has not been fetched.
    """
    if not patterns:
        raise UserError("no data files are named; name at least one parquet file or glob")
    found: dict[Path, None] = {}
    for pattern in patterns:
        for path in [data_file(pattern)] if pattern.startswith(HUB) else _local_files(pattern):
            found.setdefault(path)
    return list(found)


def _local_files(pattern: str) -> list[Path]:
    expanded = Path(pattern).expanduser()
    if expanded.is_dir():
        raise UserError(f"{pattern} is a folder; name the files in it, for instance {pattern.rstrip('/')}/*.parquet")
    # A file whose name contains brackets is a file before it is a glob.
    # pathlib's own glob takes no absolute pattern.
    matches = [expanded] if expanded.exists() else [Path(p) for p in glob.glob(str(expanded), recursive=True)]  # noqa: PTH207
    files = sorted(path for path in matches if path.is_file())
    if not files:
        raise UserError(f"no file matches {pattern} (looked from {Path.cwd()})")
    return files
