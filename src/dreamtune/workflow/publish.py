"""Publish an experiment: links in `results/latest/EXPERIMENT` to its newest versions, at paths that do not change."""

import os
from pathlib import Path

from dreamtune.files import replace_with, write_json
from dreamtune.report.index import render_index


def publish(marker: Path, links: dict[str, str]) -> None:
    """Point the links beside `marker` at an experiment's versions, list it in the index, and write the marker last.

    Each link is replaced atomically; links that are not among `links` are removed. The markers of earlier publications
    are removed first, so that after a crash no marker stands for links that it does not describe.

    Args:
        marker: file whose existence says that these links were published.
        links: version folders by the links' names; "report" must be one of them.
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

    Several publications may run at the same time, without a lock: each renders the page again after writing it, so the
    last page written contains every link that was set before.
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
