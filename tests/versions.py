"""Version folders under `results/`, as stages write them, made without running one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamtune.digests import describe
from dreamtune.files import write_json
from dreamtune.workflow.verification import sealed, version_of


def specification(
    stage: str, reads: Mapping[str, Path] | None = None, order_only: Mapping[str, Path] | None = None, **given: Any
) -> dict[str, Any]:
    """Return what a version of a stage is made from; `given` replaces fields such as settings and runtime."""
    spec = {
        **{"format": 1, "stage": stage, "settings": {}, "inputs": {}, "code": "0" * 12, "runtime": {}, "cluster": {}},
        "reads": {name: folder.as_posix() for name, folder in (reads or {}).items()},
        "order_only": {name: folder.as_posix() for name, folder in (order_only or {}).items()},
        **given,
    }
    return spec | {"version": version_of(spec)}


def freeze(spec: Mapping[str, Any], root: Path = Path()) -> Path:
    """Write a specification as config.json; return the version's folder, below `root`."""
    folder = root / "results" / spec["stage"] / spec["version"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", sealed(spec))
    return folder


def finish(folder: Path, spec: Mapping[str, Any], **record: Any) -> None:
    """Write the manifest of the files that lie in a version's folder."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("config.json", "manifest.json")
    ]
    outputs = {path.relative_to(folder).as_posix(): describe(path) for path in files}
    write_json(folder / "manifest.json", sealed({**spec, "counts": {}, "wall_s": 1.0, **record, "outputs": outputs}))
