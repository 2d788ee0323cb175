"""Publish an experiment: links in `results/latest/EXPERIMENT` to its newest versions, at paths that do not change."""

import os
from contextlib import suppress
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.files import read_json, replace_with, write_json
from dreamtune.report.index import render_index
from dreamtune.workflow.verification import read_manifest, verify

PUBLISHED = ("report.html", "summary.json")  # files of the report that are linked beside the versions


def publish(marker: Path, links: dict[str, str], configuration: str = "") -> str | None:
    """Point the links beside `marker` at an experiment's versions, list it in the index, and write the marker last.

    Each link is replaced atomically; links that are not among `links` are removed. The markers of earlier publications
    are removed first, so that after a crash no marker stands for links that it does not describe.

    Args:
        marker: file whose existence says that these links were published, and whose content by which configuration.
        links: version folders by the links' names; "report" must be one of them.
        configuration: the configuration's files, as they were given to Snakemake.

    Returns:
        One line if another configuration published an experiment of this name, whose results are now replaced in these
        links; None otherwise.

    Raises:
        UserError: a version is not finished, or the report is not what its manifest says; then nothing is changed.
    """
    for version in links.values():
        read_manifest(Path(version))
    verify(Path(links["report"]))
    folder = marker.parent
    folder.mkdir(parents=True, exist_ok=True)
    replaced = _replaced(folder, links, configuration)
    for old in folder.glob(".published-*"):
        if not old.name.startswith(marker.name):
            old.unlink(missing_ok=True)
    targets = {name.replace("/", "-"): Path(target) for name, target in links.items()}
    targets |= {name: targets["report"] / name for name in PUBLISHED}
    for name, target in targets.items():
        _link(folder / name, target)
    for path in list(folder.iterdir()):
        if path.is_symlink() and path.name not in targets and not path.name.startswith("."):  # not another writer's
            path.unlink(missing_ok=True)
    write_json(folder / "versions.json", links)
    write_index(folder.parent)
    write_json(marker, {"configuration": configuration})
    return replaced


def _replaced(folder: Path, links: dict[str, str], configuration: str) -> str | None:
    """Return the line of `publish` on an experiment that another configuration published in `folder`."""
    markers = [path for path in folder.glob(".published-*") if path.suffix != ".log"]
    with suppress(OSError, ValueError):  # markers of earlier releases are empty
        before = {read_json(path)["configuration"] for path in markers} - {configuration, ""}
        if before:
            return (
                f"{folder} showed the experiment {folder.name} of {before.pop()} "
                f"({read_json(folder / 'versions.json')['report']}), and now shows that of {configuration} "
                f"({links['report']}); to see both side by side, give one another name under `experiments`"
            )
    return None


def write_index(latest: Path) -> None:
    """Write `latest`/index.html from every experiment's summary.json.

    Several publications may run at the same time, without a lock: each renders the page again after writing it, so the
    last page written contains every link that was set before.
    """
    written = None
    while (page := render_index(latest, _refused(latest))) != written:
        _write(latest / "index.html", page)
        written = page


def report_of(published: Path) -> Path:
    """Verify the published report of an experiment; return its version folder.

    The link is read but not resolved, so that the folder keeps the names of stage and version where results/STAGE is a
    link, too.

    Args:
        published: results/latest/EXPERIMENT.

    Raises:
        UserError: nothing is published there, or the report is not what its manifest says.
    """
    link = published / "report"
    if not link.is_symlink():
        raise UserError(f"{published} has no link to a report; run snakemake to publish the experiment")
    folder = Path(os.path.normpath(published / link.readlink()))
    verify(folder, *PUBLISHED)
    return folder


def _refused(latest: Path) -> dict[str, str]:
    """Return why an experiment's report is not what its manifest says, by the experiment's name."""
    refused = {}
    for link in latest.glob("*/report"):
        try:
            report_of(link.parent)
        except UserError as error:
            refused[link.parent.name] = str(error)
    return refused


def _link(link: Path, target: Path) -> None:
    with replace_with(link) as private:
        private.symlink_to(os.path.relpath(target, link.parent))


def _write(path: Path, text: str) -> None:
    with replace_with(path) as private:
        private.write_text(text, encoding="utf-8")
