"""Delete the versions that no published experiment (under results/latest) needs any more."""

from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.overview.members import read_members
from dreamtune.workflow.plan import RESULTS
from dreamtune.workflow.scratch import clear_abandoned, clear_finished
from dreamtune.workflow.verification import FROZEN, MANIFEST, read_frozen, read_manifest
from dreamtune.writers import delete

UPON_OTHERS = ("merge_adapter/", "study/", "confirm/")  # kept as long as all that they read is needed


def prune(results: Path = RESULTS, unfinished: bool = False) -> list[Path]:
    """Delete the versions that nothing needs, and the checkpoints of finished trainings; return the deleted folders.

    A version is needed if a published experiment links to it, if it is finished and of a run of the study that was
    planned last (which may have ended without a report), if it merges or compares such versions, if it is unfinished
    (it may be running, or have checkpoints to resume from), or if a needed version reads it.

    A version is renamed before it is deleted: one that is half deleted would still have its manifest. What was killed
    in the middle of that, here or in a job that had just finished, is deleted, too.

    Args:
        unfinished: delete unfinished versions, too, unless a published experiment needs them.

    Raises:
        UserError: no experiment is published, so that everything would be deleted; or the manifest of a finished
            version, the config.json of an unfinished one, or the list of an experiment's versions is damaged.
    """
    published = list((results / "latest").glob("*/versions.json"))
    if not published:
        raise UserError(f"{results / 'latest'} holds no published experiment, so everything would be deleted; stopped")
    folders = {
        f"{path.parent.name}/{path.name}": path
        for path in sorted(results.glob("*/*"))
        if path.is_dir() and path.parent.name != "latest" and not {path.name[0], path.parent.name[0]} & {"."}
    }
    read = {name: _read_by(path) for name, path in folders.items()}
    needed = {name for versions in published for name in _linked(versions)}
    members = read_members(results / "latest")
    runs = members.runs if members else []
    studied = {_name(folder) for run in runs for folder in (*run.folders.values(), *run.decided)}
    if members and any(run.decided for run in runs):  # of runs that were stopped, the study's reads are never finished
        studied |= {_name(folder) for folder in (members.study, members.confirm) if folder}
    needed |= {name for name in studied & folders.keys() if not _is_unfinished(folders[name])}
    needed |= {name for name in folders if name.startswith(UPON_OTHERS) and read[name] <= needed}
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
        delete(path)
    for stage in results.iterdir():
        clear_abandoned(stage)
    for path in folders.values():
        if (path / MANIFEST).exists():
            clear_finished(path)
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


def _linked(versions: Path) -> list[str]:
    """Return the versions, as STAGE/VERSION, that an experiment's versions.json names."""
    try:
        return [_name(folder) for folder in read_json(versions).values()]
    except (AttributeError, OSError, TypeError, ValueError):
        raise UserError(
            f"{versions} does not name an experiment's versions, so nothing was deleted; start snakemake again with "
            f"the experiment after deleting {versions.parent}"
        ) from None


def _read_by(folder: Path) -> set[str]:
    """Return the versions, as STAGE/VERSION, that a version reads or waits for; none if it was never planned.

    A finished version says so in its manifest, another in its frozen config.
    """
    finished = (folder / MANIFEST).exists()
    if not finished and not (folder / FROZEN).exists():
        return set()
    try:
        spec = read_manifest(folder) if finished else read_frozen(folder)
        return {_name(read) for read in (spec["reads"] | spec["order_only"]).values()}
    except UserError as error:
        raise UserError(f"nothing was deleted: {error}") from None


def _name(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])
