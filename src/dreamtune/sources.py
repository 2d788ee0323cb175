"""Where rows come from: parquet files on disk, globs, or pinned files of a dataset on the Hugging Face hub."""

import glob
import re
from pathlib import Path

from dreamtune.errors import UserError

HUB = "hf://"
HUB_FILE = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)@(?P<revision>[0-9a-f]{40})/(?P<file>.+)")


def resolve_files(patterns: list[str]) -> list[Path]:
    """Return the files the patterns name, in the patterns' order, each pattern's matches sorted, none twice.

    Raises:
        UserError: a pattern matches nothing or a folder, or a hub file is not pinned or cannot be had.
    """
    if not patterns:
        raise UserError("no data files are named; name at least one parquet file or glob")
    found: dict[Path, None] = {}
    for pattern in patterns:
        for path in [_hub_file(pattern)] if pattern.startswith(HUB) else _local_files(pattern):
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


def _hub_file(address: str) -> Path:
    parts = HUB_FILE.fullmatch(address)
    if not parts:
        raise UserError(
            f"{address} is not a pinned hub file; write hf://datasets/OWNER/NAME@REVISION/PATH.parquet "
            "with the 40-digit commit as the revision"
        )
    from huggingface_hub import hf_hub_download  # the Snakefile imports this module and must stay light

    try:
        return Path(
            hf_hub_download(parts["repository"], parts["file"], repo_type="dataset", revision=parts["revision"])
        )
    except Exception as error:  # network, authentication, no such file: the hub's own first line says which
        raise UserError(f"cannot download {address}: {str(error).strip().splitlines()[0]}") from error
