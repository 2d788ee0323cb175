"""Publish an experiment: links in `results/latest/EXPERIMENT` to its newest versions, at paths that do not change.

Beside the links lies a folder to be uploaded or given away: `adapter`, or `model` after full fine-tuning. It holds the
files of the training, which is immutable and knows no verdict, and the model card that the report wrote.
"""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.files import read_json, replace_with, write_json
from dreamtune.overview.members import read_members
from dreamtune.overview.page import INDEX, write_page
from dreamtune.workflow.scratch import clear_abandoned, private_folder, replace_folder
from dreamtune.workflow.verification import read_manifest, verify

PUBLISHED = ("report.html", "summary.json")  # files of the report that are linked beside the versions
HARNESS = "lm-eval"  # folder of the report that is linked, too: results as lm-evaluation-harness writes them
CARD = "README.md"
OFTEN, PAUSE_S = 50, 60.0  # runs of a study up to which each publication writes the page; seconds between pages
TRAINED = ("adapter", "model")  # names of a training's folder of weights


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
        UserError: a version is not finished, or the report or the trained weights are not what their manifest says;
            then nothing is changed.
    """
    for version in links.values():
        read_manifest(Path(version))
    report, full = Path(links["report"]), Path(links.get("full", ""))
    verify(report)
    trained = _trained_files(full) if "full" in links and (report / CARD).exists() else {}
    folder = marker.parent
    folder.mkdir(parents=True, exist_ok=True)
    replaced = _replaced(folder, links, configuration)
    for old in folder.glob(".published-*"):
        if not old.name.startswith(marker.name):
            old.unlink(missing_ok=True)
    targets = {name.replace("/", "-"): Path(target) for name, target in links.items()}
    targets |= {name: report / name for name in (*PUBLISHED, HARNESS) if (report / name).exists()}
    for name, target in targets.items():
        _link(folder / name, target)
    for path in list(folder.iterdir()):
        if path.is_symlink() and path.name not in targets and not path.name.startswith("."):  # not another writer's
            path.unlink(missing_ok=True)
    _publish_weights(folder, full, trained, report / CARD)
    clear_abandoned(folder)
    write_json(folder / "versions.json", links)
    write_index_of_some(folder.parent)
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
    """Write `latest`/index.html, and what lies beside it, from every experiment's summary.json.

    Several publications may run at the same time, without a lock: each writes the page again if a link was set
    meanwhile, so the last page written contains every link that was set before.
    """
    seen = None
    while (links := _links(latest)) != seen:
        seen = links
        write_page(latest, _refused(latest))


def write_index_of_some(latest: Path) -> None:
    """Do the same, but of a study of more than OFTEN runs only if the page is older than a minute.

    Otherwise a study of 1,000 runs would write the page of 1,000 runs 1,000 times; the driver writes the last one.
    """
    members, page = read_members(latest), latest / INDEX
    with suppress(OSError):
        if members and len(members.runs) > OFTEN and time.time() - page.stat().st_mtime < PAUSE_S:
            return
    write_index(latest)


def _links(latest: Path) -> dict[str, str]:
    """Return where the link to each experiment's report leads."""
    return {link.parent.name: str(link.readlink()) for link in latest.glob("*/report") if link.is_symlink()}


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


def _trained_files(full: Path) -> dict[str, list[str]]:
    """Verify a training's weights; return their files, relative to its folder, by the name of the folder they lie in.

    Raises:
        UserError: a file is not what the training's manifest says.
    """
    outputs: Mapping[str, Any] = read_manifest(full)["outputs"]
    found = {name: [file for file in outputs if file.startswith(f"{name}/")] for name in TRAINED}
    found = {name: files for name, files in found.items() if files}
    if found:
        verify(full, *(file for files in found.values() for file in files))
    return found


def _publish_weights(folder: Path, full: Path, trained: Mapping[str, list[str]], card: Path) -> None:
    """Put `folder`/adapter or `folder`/model together, and remove the one of an earlier publication."""
    aside = private_folder(folder, ".weights-")
    for name in TRAINED:
        if files := trained.get(name):
            for file in files:
                _copy(full / file, aside / file)
            shutil.copyfile(card, aside / name / CARD)
            replace_folder(aside / name, folder / name, aside)
        else:
            shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; weights, which may be tens of gigabytes, become a hard link where the file system has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        with suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)


def _link(link: Path, target: Path) -> None:
    with replace_with(link) as private:
        private.symlink_to(os.path.relpath(target, link.parent))
