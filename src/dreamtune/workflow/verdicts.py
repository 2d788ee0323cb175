"""What a run ends with: each experiment's verdict in one line, and the path of its report. Torch-free."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamtune.device import usage
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.workflow.publish import report_of
from dreamtune.workflow.verification import read_manifest


def verdict_lines(folder: Path) -> list[str]:
    """Return the lines on one published experiment: verdict, what to change if it is invalid, two figures, report.

    The figures do not decide the verdict: accuracy by the last number anywhere in an answer, and the training loss.
    Where jobs asked SLURM for much more than they used, one more line says what to write into the profile.

    Args:
        folder: results/latest/EXPERIMENT.

    Raises:
        UserError: no report is published there, or its files are not what its manifest says.
    """
    summary = read_json(report_of(folder) / "summary.json")
    lines = [f"{folder.name}: {summary['sentence']}"]
    if summary.get("remedy"):
        lines.append(f"  what to change: {summary['remedy']}")
    if figures := _figures(summary):
        lines.append(f"  {figures}")
    if lower := usage.advice(_usages(folder)):
        lines.append(f"  jobs used less than half of what they asked for; in the profile, under set-resources: {lower}")
    return [*lines, f"  {folder / 'report.html'}"]


def lines_of_finished(latest: Path, markers: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines on those experiments whose results of the present configuration are published.

    An experiment that was published under another configuration, or whose report is not made yet, is left out. The line
    on a damaged report says what is wrong with it.

    Args:
        latest: results/latest.
        markers: by experiment, the file that publication writes last (see `workflow.publish`).
    """
    for name, marker in markers.items():
        if Path(marker).exists() and (latest / name / "summary.json").exists():
            try:
                yield from verdict_lines(latest / name)
            except UserError as error:
                yield f"{name}: {error}"


def _usages(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield rule and usage of each job of a published experiment whose record tells it."""
    for version in map(Path, set(read_json(folder / "versions.json").values())):
        try:
            manifest = read_manifest(version)
        except UserError:  # deleted or damaged: said by whatever reads it next
            continue
        if parts := manifest.get("parts"):
            yield from ((f"{version.parent.name}_part", part["usage"]) for part in parts if part.get("usage"))
        elif manifest.get("usage"):
            yield version.parent.name, manifest["usage"]


def _figures(summary: Mapping[str, Any]) -> str:
    lenient, training = summary["lenient"], summary["training"]
    said = []
    if lenient["base"]["value"] is not None:
        said.append(f"last number anywhere {lenient['base']['value']:.1%} → {lenient['tuned']['value']:.1%}")
    if training.get("last_loss") is not None:
        said.append(f"training loss {training['first_loss']:.4f} → {training['last_loss']:.4f}")
    return "; ".join(said)
