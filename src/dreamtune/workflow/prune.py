"""Delete the versions that no published experiment (under results/latest) needs any more."""

import shutil
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.workflow.plan import RESULTS


def prune(results: Path = RESULTS, unfinished: bool = False) -> list[Path]:
    """Delete the versions that nothing needs, and the checkpoints of finished trainings; return the deleted folders.

    A version is needed if a published experiment links to it, if it merges such versions, if it is unfinished (it may
    be running, or have checkpoints to resume from), or if a needed version reads it.

    Args:
        unfinished: delete unfinished versions, too, unless a published experiment needs them.

    Raises:
        UserError: no experiment is published, so that everything would be deleted; or a config.json is damaged.
    """
    published = list((results / "latest").glob("*/versions.json"))
    if not published:
        raise UserError(f"{results / 'latest'} holds no published experiment, so everything would be deleted; stopped")
    folders = {
        f"{path.parent.name}/{path.name}": path
        for path in sorted(results.glob("*/*"))
        if path.is_dir() and path.parent.name != "latest"
    }
    read = {name: _read_by(path) for name, path in folders.items()}
    needed = {_name(folder) for versions in published for folder in read_json(versions).values()}
    needed |= {name for name in folders if name.startswith("merge_adapter/") and read[name] <= needed}
    if not unfinished:
        needed |= {name for name, path in folders.items() if _is_unfinished(path)}
    waiting = list(needed)
    while waiting:
        new = read.get(waiting.pop(), set()) - needed
        needed |= new
        waiting += new
    stale = [path for name, path in folders.items() if name not in needed]
    stale += [path / "checkpoints" for name, path in folders.items() if name in needed and _has_old_checkpoints(path)]
    for path in stale:
        shutil.rmtree(path)
    return stale


def _has_old_checkpoints(folder: Path) -> bool:
    """Return whether a version is finished and has checkpoints, from which no training will resume."""
    return (folder / "checkpoints").is_dir() and (folder / "manifest.json").exists()


def _is_unfinished(folder: Path) -> bool:
    """Return whether a version was begun or will be made, and has no manifest.

    Every merge is planned, and made only on request: one whose folder holds nothing but its config.json was not begun.
    """
    asked_for = folder.parent.name != "merge_adapter" or any(path.name != "config.json" for path in folder.iterdir())
    return asked_for and not (folder / "manifest.json").exists()


def _read_by(folder: Path) -> set[str]:
    """Return the versions, as STAGE/VERSION, that a version reads or waits for, by its frozen config."""
    path = folder / "config.json"
    if not path.exists():
        return set()
    try:
        spec = read_json(path)
        return {_name(read) for read in (spec["reads"] | spec["order_only"]).values()}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} does not say what its version reads, so nothing was deleted; delete {folder} if it is damaged"
        ) from None


def _name(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])
