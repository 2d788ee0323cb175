"""A stage in this process: the script that writes a report, which reads nothing here."""

from pathlib import Path

from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.stage import Stage
from dreamtune.writers import writer_name

SCRIPT = str(ROOT / "workflow/scripts/render_report.py")


def stage(folder: Path) -> Stage:
    return Stage(SCRIPT, code_digest(SCRIPT), ["--out", str(folder)])


def ended_writer() -> str:
    """Return the name of a writer of this machine that has ended."""
    place, number, start = writer_name().split("-")
    return f"{place}-{number}-{int(start) + 1}"
