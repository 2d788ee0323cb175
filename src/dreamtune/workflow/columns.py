"""The columns that planned jobs read from the user's files, checked while the plan is made.

Of parquet only the footer is read, by pyarrow; CSV and JSON lines are read once, to count rows. Where pyarrow is not
installed, as for a Snakemake that runs all jobs in an image, the jobs themselves check. Files on the hub are checked
right after their download (`inputs.download`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.hub import HUB

Read = tuple[tuple[str, ...], tuple[str, ...]]  # files, and columns of each of them


def columns_read(specs: Iterable[Mapping[str, Any]]) -> dict[Read, None]:
    """Return the files and columns that the jobs of these versions read, each combination once.

    >>> list(columns_read([{
    ...     "settings": {"data": {"columns": {"question": "q", "reasoning": None, "answer": "a", "cluster": None}}},
    ...     "runtime": {"data": {"files": ["rows.parquet"]}},
    ... }]))
    [(('rows.parquet',), ('q', 'a'))]
    """
    return {found: None for spec in specs for found in _of(spec["settings"], spec["runtime"])}


def _of(settings: Mapping[str, Any], runtime: Mapping[str, Any]) -> Iterator[Read]:
    for name, section in settings.items():
        if name == "data":
            columns: list[str | None] = list(section["columns"].values())
        elif name.partition("/")[0] == "benchmark":
            columns = [section["question"], section["answer"]]
        else:
            continue
        yield tuple(runtime[name]["files"]), tuple(dict.fromkeys(filter(None, columns)))


def check_columns(specs: Iterable[Mapping[str, Any]]) -> None:
    """Check that the local files which these versions read have rows and the columns named.

    Raises:
        UserError: a file is of no known kind, a column is missing or of another type, or there are no rows.
    """
    for files, columns in columns_read(specs):
        local = [file for file in files if not file.startswith(HUB)]
        if local:
            try:
                from dreamtune.inputs.rows import open_rows
            except ImportError:  # numpy or pyarrow is not installed, or cannot be loaded
                return
            open_rows(resolve_files(local), list(columns), batch_rows=1)


def hub_columns(specs: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the files on the hub that these versions read, each with the name of a column that it must have."""
    return [
        (file, name) for files, names in columns_read(specs) for file in files if file.startswith(HUB) for name in names
    ]
