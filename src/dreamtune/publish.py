"""`results/latest/EXPERIMENT`: stable links to an experiment's newest versions, which is what people open."""

import json
import os
import shutil
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.plan import RESULTS
from dreamtune.report.index import render_index

LATEST = RESULTS / "latest"


def publish(marker: Path, links: dict[str, str]) -> None:
    """Replace each link atomically, remove those that are no more, list the experiment, and last write the `marker`.

    Markers of other publications go first: whatever happens in between, no marker stands for links it did not set.
    """
    folder = marker.parent
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".published-*"):
        if not old.name.startswith(marker.name):
            old.unlink(missing_ok=True)
    targets = {name.replace("/", "-"): Path(target) for name, target in links.items()}
    targets |= {name: targets["report"] / name for name in ("report.html", "summary.json")}
    for name, target in targets.items():
        _link(folder / name, target)
    for path in list(folder.iterdir()):
        if path.is_symlink() and path.name not in targets and not path.name.startswith("."):  # not another writer's
            path.unlink(missing_ok=True)
    _write(folder / "versions.json", json.dumps(links, indent=1))
    write_index(folder.parent)
    _write(marker, "")


def write_index(latest: Path) -> None:
    """Write `latest`/index.html from every experiment's summary.json.

    Publications may run side by side without a lock: each looks again after writing, so the last page written has seen
    every link set before it.
    """
    written = None
    while (page := render_index(latest)) != written:
        _write(latest / "index.html", page)
        written = page


def _link(link: Path, target: Path) -> None:
    beside = link.with_name(f".{link.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target, link.parent))
    beside.replace(link)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


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
    needed = {_name(folder) for versions in published for folder in json.loads(versions.read_text()).values()}
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
    spec = json.loads(path.read_text())
    return {_name(read) for read in (spec["reads"] | spec["order_only"]).values()}


def _name(folder: str) -> str:
    return "/".join(Path(folder).parts[-2:])
