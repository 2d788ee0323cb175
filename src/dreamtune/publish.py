"""`results/latest/EXPERIMENT`: stable links to an experiment's newest versions, which is what people open."""

import json
import os
import shutil
from pathlib import Path

from dreamtune.plan import RESULTS

LATEST = RESULTS / "latest"


def publish(marker: Path, links: dict[str, str]) -> None:
    """Replace each link atomically, write `versions.json`, and leave `marker` as the only marker of this folder."""
    folder = marker.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in links.items():
        _link(folder / name.replace("/", "-"), Path(target))
    for name in ("report.html", "summary.json"):
        _link(folder / name, Path(links["report"]) / name)
    _write(folder / "versions.json", json.dumps(links, indent=1))
    for old in folder.glob(".published-*"):
        if not old.name.startswith(marker.name):
            old.unlink(missing_ok=True)
    _write(marker, "")


def _link(link: Path, target: Path) -> None:
    beside = link.with_name(f".{link.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(target, link.parent))
    beside.replace(link)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def prune(results: Path = RESULTS) -> list[Path]:
    """Delete the versions that no experiment under `latest` points to; return their folders."""
    kept = {
        Path(folder)
        for versions in (results / "latest").glob("*/versions.json")
        for folder in json.loads(versions.read_text()).values()
    }
    folders = [f for f in sorted(results.glob("*/*")) if f.is_dir() and f.parent.name != "latest"]
    stale = [folder for folder in folders if RESULTS / folder.relative_to(results) not in kept]
    for folder in stale:
        shutil.rmtree(folder)
    return stale
