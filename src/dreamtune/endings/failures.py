"""Jobs that failed for good in one call of Snakemake: which they are, and the note of each beside its version."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreamtune.errors import UserError
from dreamtune.files import read_json, write_json
from dreamtune.overview.states import last_words
from dreamtune.workflow.plan import RESULTS
from dreamtune.workflow.verification import FAILURE, MANIFEST

INTERRUPTED = "stopped by SIG"  # begins what a job says that was asked to stop: the next call goes on with it
WORDLESS = "it was killed without a word (out of memory, or its node was lost?)"
FAILED, ASKED_TO_STOP = "failed", "_user_kill"  # attributes of Snakemake's scheduler


def failed_versions(scheduler: Any) -> set[tuple[str, str]]:
    """Return stage and version of the jobs that failed in this call of Snakemake for good, their retries included.

    None of them if the call was asked to stop: then nobody knows whether they would have failed.

    Only Snakemake's scheduler knows both. Neither is part of a documented interface: `onerror` is given the log alone,
    and a logger sees each failed attempt, but neither whether another one follows nor a job that ended without its
    output. So two attributes of the scheduler are read, and nowhere else.

    Args:
        scheduler: Snakemake's, `workflow.scheduler`, once it has run.

    Raises:
        UserError: it has no such attributes, as it may be in another release of Snakemake.
    """
    if missing := [name for name in (FAILED, ASKED_TO_STOP) if not hasattr(scheduler, name)]:
        raise UserError(
            f"this Snakemake's scheduler has no {' and no '.join(missing)}, so it is unknown which jobs failed, and no "
            "study is made without them; install the Snakemake of containers/requirements.lock"
        )
    jobs = [] if getattr(scheduler, ASKED_TO_STOP) else getattr(scheduler, FAILED)
    named = [job for job in jobs if "version" in getattr(job, "wildcards", {}).keys()]  # noqa: SIM118, a list of values
    return {(job.rule.name.removesuffix("_part"), job.wildcards.version) for job in named}


def note_failures(versions: Iterable[tuple[str, str]]) -> None:
    """Note the failure of jobs that are not tried again in this call, each beside its version with its last words.

    A job that was asked to stop did not fail, and nothing is noted of it.

    Args:
        versions: stage and version of each job.
    """
    for stage, version in versions:
        folder = RESULTS / stage / version
        said = last_words(folder) or WORDLESS
        if folder.exists() and not (folder / MANIFEST).exists() and not said.startswith(INTERRUPTED):
            write_json(folder / FAILURE, {"reason": said})


def noted_failure(folder: Path) -> str | None:
    """Return the noted reason why a version's job failed; None if there is none."""
    try:
        content: Mapping[str, Any] = read_json(folder / FAILURE)
        return str(content["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
