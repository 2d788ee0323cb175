"""The columns that planned jobs read from the user's files, checked while the plan is made.

Of parquet only the footer is read, by pyarrow; CSV and JSON lines are read once, to count rows. Where pyarrow is not
installed, as for a Snakemake that runs all jobs in an image, the jobs themselves check. Files on the hub are checked
right after their download (`inputs.download`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.hub import HUB
from dreamtune.settings.data import DataConfig, columns_of

Read = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # files, their columns, and those that hold lists


def columns_read(specs: Iterable[Mapping[str, Any]]) -> dict[Read, None]:
    """Return the files and columns that the jobs of these versions read, each combination once.

    >>> data = {"columns": {"question": "{q}, {p}", "reasoning": None, "answer": "a"}, "template": "{question}{answer}"}
    >>> list(columns_read([{"settings": {"data": data}, "runtime": {"data": {"files": ["rows.parquet"]}}}]))
    [(('rows.parquet',), ('q', 'p', 'a'), ())]
    """
    return {found: None for spec in specs for found in _of(spec["settings"], spec["runtime"])}


def _of(settings: Mapping[str, Any], runtime: Mapping[str, Any]) -> Iterator[Read]:
    for name, section in settings.items():
        if name == "data":
            data = DataConfig.model_validate(section | runtime[name])
            for source in data.of_each():
                columns, nested = columns_of(source, settings.get("graded"))
                yield tuple(source.files), tuple(columns), tuple(nested)
        elif name.partition("/")[0] == "benchmark":
            asked = dict.fromkeys([section["question"], section["answer"]])
            yield tuple(runtime[name]["files"]), tuple(asked), ()


def check_columns(specs: Iterable[Mapping[str, Any]]) -> None:
    """Check that the local files which these versions read have rows and the columns named.

    Raises:
        UserError: a file is of no known kind, a column is missing or of another type, or there are no rows.
    """
    for files, columns, nested in columns_read(specs):
        local = [file for file in files if not file.startswith(HUB)]
        if local:
            try:
                from dreamtune.inputs.rows import open_rows
            except ImportError:  # numpy or pyarrow is not installed, or cannot be loaded
                return
            open_rows(resolve_files(local), list(columns), 1, nested)
    for files, condition in {(tuple(source["files"]), source["where"]): None for source in _sources(specs)}:
        if condition is not None:
            try:
                from dreamtune.sources.where import Where
            except ImportError:
                return
            where = Where(condition)
            local = [file for file in files if not file.startswith(HUB)]
            for path in resolve_files(local) if local else []:
                where.check(path)


def _sources(specs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the settings of each of several sources."""
    for spec in specs:
        yield from (spec["runtime"].get("data") or {}).get("sources") or []


def hub_columns(specs: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the files on the hub that these versions read, each with the name of a column that it must have."""
    found = columns_read(specs)
    return [(file, name) for files, names, _ in found for file in files if file.startswith(HUB) for name in names]
