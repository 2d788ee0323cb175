"""Tell what kind of file holds the user's rows: parquet, CSV or JSON lines. Anything else gets a line on what to do."""

import re
from pathlib import Path
from typing import Literal

from dreamtune.errors import UserError

Kind = Literal["parquet", "csv", "jsonl"]
SUFFIXES: dict[str, Kind] = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
PARQUET = b"PAR1"
# First bytes of a file -> what it is, and what to do.
OTHERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the data; run `git lfs pull` in its repository",
    b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it with unzstd",
    b"BZh": "is compressed by bzip2; unpack it with bunzip2",
    b"PK\x03\x04": "is a ZIP archive or an Excel sheet; unpack it, or save the sheet as CSV",
    b"ARROW1": "is an Arrow file; write it as parquet",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"<!doctype html": "is a web page; download the file itself",
    b"<html": "is a web page; download the file itself",
    b"[": "is one JSON array; write one object a line: jq -c '.[]' FILE > FILE.jsonl",
}
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
HUB_PAGE = re.compile(r"https://huggingface\.co/datasets/([^/]+/[^/]+)/(?:resolve|blob|raw)/([^/]+)/([^?]+)(?:\?.*)?")


def kind_of(path: Path) -> Kind:
    """Return the kind of a file: parquet by its first bytes, CSV (or TSV) and JSON lines by the end of its name.

    Raises:
        UserError: it is none of these, or empty, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is an empty file (0 bytes); expected parquet, CSV or JSON lines")
    if head.startswith(PARQUET):
        return "parquet"
    kind = SUFFIXES.get(path.suffix.lower())
    for start, what in OTHERS.items():
        if head.lstrip().lower().startswith(start.lower()) and (start != b"[" or kind == "jsonl"):
            raise UserError(f"{path} {what}")
    if kind is None:
        raise UserError(
            f"{path} is not a parquet file; CSV and JSON lines are read from files named *.csv, *.tsv and *.jsonl"
        )
    return kind


def check_local(pattern: str) -> None:
    """Raise a UserError if a pattern is an address on the network, which jobs never read.

    >>> check_local("data/rows-*.parquet")
    """
    if page := HUB_PAGE.fullmatch(pattern):
        repository, revision, file = page.groups()
        pinned = revision if re.fullmatch("[0-9a-f]{40}", revision) else "REVISION"
        hint = "" if pinned == revision else " with the 40-digit commit as REVISION"
        raise UserError(f"{pattern} is a web address; write hf://datasets/{repository}@{pinned}/{file}{hint}")
    if pattern.startswith("file://"):
        raise UserError(f"{pattern}: name local files by their path, {pattern.removeprefix('file://')}")
    if ADDRESS.match(pattern):
        tool = "aws s3 cp" if pattern.startswith("s3://") else "curl -LO" if pattern.startswith("http") else "a copy"
        raise UserError(
            f"{pattern} lies on the network, where no job reads; download it first ({tool}) and name the local file, "
            "or pin a file on the hub: hf://datasets/OWNER/NAME@REVISION/PATH"
        )
