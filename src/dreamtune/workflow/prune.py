"""Deleting the versions that no experiment under results/latest needs any more."""

import shutil
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.workflow.plan import RESULTS


def prune(results: Path = RESULTS, unfinished: bool = False) -> list[Path]:
    """Delete the versions that nothing needs any more, and the checkpoints of finished ones; return the folders.

    Needed are the versions that `latest` points to, the merges made of them, unfinished ones (which may be running, or
    hold checkpoints to go on from; not with `unfinished`), and whatever any of these reads.

    Raises:
        UserError: nothing has been published, so that everything would go.
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
        needed |= {name for name, path in folders.items() if _in_the_making(path)}
    waiting = list(needed)
    while waiting:
        new = read.get(waiting.pop(), set()) - needed
        needed |= new
        waiting += new
    stale = [path for name, path in folders.items() if name not in needed]
    stale += [path / "checkpoints" for name, path in folders.items() if name in needed and _is_done_with_them(path)]
    for path in stale:
        shutil.rmtree(path)
    return stale


def _is_done_with_them(folder: Path) -> bool:
    """Whether there are checkpoints that no training will resume from."""
    return (folder / "checkpoints").is_dir() and (folder / "manifest.json").exists()


def _in_the_making(folder: Path) -> bool:
    """Whether a version is unfinished; a merge that was planned, as all are, and never asked for is nothing."""
    asked_for = folder.parent.name != "merge_adapter" or any(path.name != "config.json" for path in folder.iterdir())
    return asked_for and not (folder / "manifest.json").exists()


def _read_by(folder: Path) -> set[str]:
    """Return STAGE/VERSION of what a version reads, from its frozen config."""
    path = folder / "config.json"
    if not path.exists():
        return set()
    spec = read_json(path)
    return {_name(read) for read in (spec["reads"] | spec["order_only"]).values()}


def _name(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])
