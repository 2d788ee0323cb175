"""`results/latest/EXPERIMENT`: stable links to an experiment's newest versions, which is what people open."""

import os
from pathlib import Path

from dreamtune.files import replace_with, write_json
from dreamtune.report.index import render_index


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
    write_json(folder / "versions.json", links)
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
    with replace_with(link) as private:
        private.symlink_to(os.path.relpath(target, link.parent))


def _write(path: Path, text: str) -> None:
    with replace_with(path) as private:
        private.write_text(text, encoding="utf-8")
