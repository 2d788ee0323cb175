"""How far each run of a study has come: its report's summary, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamtune.files import read_json
from dreamtune.formats.halving import HALVE_FILE, STOPPED
from dreamtune.overview.members import REPORT, Member
from dreamtune.report.text import reveal
from dreamtune.study.ended import Ended

FORMAT = 1  # the format of summary.json that is understood
LONGEST = 300  # characters of a reason
TAIL = 16_384  # bytes at the end of a log that are searched for an error
Stand = Literal["finished", "invalid", "ended", "failed", "unfinished", "not run"]


@dataclass(frozen=True)
class State:
    """How far a run has come.

    Attributes:
        member: the run.
        stand: finished: its numbers may be read; invalid: a canary failed, so that they mean nothing; ended: it ended
            without a report, and the study is made without it; failed: a stage ended with an error; unfinished: a stage
            began and has not ended; not run: it waits.
        reason: why it is not finished, in one line; "" if it is.
        summary: content of its summary.json; {} where there is no report.
    """

    member: Member
    stand: Stand
    reason: str
    summary: Mapping[str, Any]

    @property
    def valid(self) -> bool:
        """Whether its numbers may be compared with others."""
        return self.stand == "finished"


def state_of(member: Member, refused: Mapping[str, str]) -> State:
    """Return how far a run has come.

    Args:
        member: the run.
        refused: why a published report must not be read, by the run's name.
    """
    if ended := member.ended or stopped(member):
        return State(member, "ended", reveal(ended, LONGEST), {})
    report = Path(member.folders[REPORT])
    if not (report / "manifest.json").exists():
        return State(member, *why_unfinished(member.folders), {})
    if member.name in refused:
        return State(member, "failed", reveal(refused[member.name], LONGEST), {})
    try:
        summary = read_json(report / "summary.json")
        if summary["format"] != FORMAT:
            return State(member, "failed", f"summary.json has format {summary['format']}, not {FORMAT}", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        return State(member, "failed", f"summary.json cannot be read ({type(error).__name__})", {})
    if summary["verdict"] == "invalid":
        return State(member, "invalid", reveal(summary["detail"] or summary["sentence"], LONGEST), summary)
    return State(member, "finished", "", summary)


def stopped(member: Member) -> str:
    """Return that halving stopped a run, and why; "" if it did not, or has not decided yet."""
    for folder in (Path(path) for path in member.decided):
        if (folder / "manifest.json").exists() and (
            reason := read_json(folder / HALVE_FILE)["stopped"].get(member.name)
        ):
            return Ended(member.name, "halving", reason.removeprefix(STOPPED)).said
    return ""


def why_unfinished(folders: Mapping[str, str | Path]) -> tuple[Stand, str]:
    """Return how far a run without a report has come, and which stage it waits for, or what that stage said last.

    Args:
        folders: version folders of the run by name, in the order in which they are made.
    """
    waits = REPORT
    for name, folder in ((name, Path(path)) for name, path in folders.items()):
        if (folder / "manifest.json").exists():
            continue
        if said := last_words(folder):
            return "failed", f"{name}: {said}"
        if _logs(folder):
            return "unfinished", f"{name} began and has not ended"
        waits = name if waits == REPORT else waits
    return "not run", f"waits for {waits}"


def last_words(folder: Path) -> str | None:
    """Return the error with which a version's job, or one of its parts, ended; None if none said one."""
    found = (error_in(_tail(log), folder.parent.name) for log in _logs(folder))
    return next((reveal(said, LONGEST) for said in found if said), None)


def _logs(folder: Path) -> list[Path]:
    return [log for log in (folder / "job.log", *sorted(folder.glob("parts/*/*/job.log"))) if log.exists()]


def error_in(log: str, stage: str) -> str | None:
    """Return the error with which a stage's log ends; None if it ends without one.

    >>> error_in("step 1\\ntrain_adapter: smoke failed its gate\\n", "train_adapter")
    'smoke failed its gate'
    >>> error_in("Traceback (most recent call last):\\n  File …\\nMemoryError: too much\\n", "train_adapter")
    'MemoryError: too much'
    """
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return None
    last = lines[-1].rpartition("\r")[2].strip()
    if last.startswith(f"{stage}: "):
        return last.removeprefix(f"{stage}: ")
    return last if any(line.startswith("Traceback ") for line in lines) else None


def _tail(log: Path) -> str:
    """Return the end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode(errors="replace")
