"""Which jobs failed for good, as Snakemake's own scheduler says it: this fails where another release renames that."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import snakemake.api  # noqa: F401, finds the plugins that a scheduler asks for
from snakemake.scheduling.job_scheduler import JobScheduler

from dreamtune.endings.failures import ASKED_TO_STOP, FAILED, failed_versions
from dreamtune.errors import UserError

RENAMED = (
    "this release of Snakemake no longer keeps {} in its JobScheduler's `{}`: look there for what does, and mend "
    "src/dreamtune/endings/failures.py, or no study is made any more without runs whose jobs failed"
)


@pytest.fixture
def scheduler() -> Iterator[Any]:
    """Snakemake's scheduler of a workflow without jobs; it takes SIGTERM, as in a call of Snakemake."""
    before = signal.getsignal(signal.SIGTERM)
    yield JobScheduler(MagicMock(), MagicMock(), MagicMock(), MagicMock())
    signal.signal(signal.SIGTERM, before)


def fail(scheduler: Any, rule: str, attempt: int = 1, **wildcards: str) -> None:
    """Let a job with one retry fail, as an executor reports it to the scheduler."""
    job = MagicMock(rule=SimpleNamespace(name=rule), restart_times=1, attempt=attempt, scheduler_resources={})
    job.wildcards = MagicMock(keys=wildcards.keys, **wildcards)
    scheduler.running.add(job)
    assert hasattr(scheduler, "_handle_error"), RENAMED.format("what becomes of a failed job", "_handle_error")
    scheduler._handle_error(job)


def test_snakemake_says_which_jobs_failed_for_good(scheduler: Any) -> None:
    assert getattr(scheduler, FAILED, None) == set(), RENAMED.format("failed jobs", FAILED)
    fail(scheduler, "train_adapter", version="a" * 12)
    assert failed_versions(scheduler) == set(), "it has a retry left"
    fail(scheduler, "train_adapter", attempt=2, version="b" * 12)
    fail(scheduler, "generate_answers_part", attempt=2, version="c" * 12, part="1")
    fail(scheduler, "publish", attempt=2, experiment="a")
    found = {("train_adapter", "b" * 12), ("generate_answers", "c" * 12)}
    assert failed_versions(scheduler) == found, RENAMED.format("failed jobs", FAILED)


def test_snakemake_says_that_it_was_asked_to_stop(scheduler: Any) -> None:
    assert getattr(scheduler, ASKED_TO_STOP, "") is None, RENAMED.format("a request to stop", ASKED_TO_STOP)
    fail(scheduler, "train_adapter", attempt=2, version="b" * 12)
    signal.raise_signal(signal.SIGTERM)
    assert failed_versions(scheduler) == set(), RENAMED.format("a request to stop", ASKED_TO_STOP)


def test_another_scheduler_is_one_line() -> None:
    with pytest.raises(UserError, match="scheduler has no _user_kill, so it is unknown which jobs failed"):
        failed_versions(SimpleNamespace(failed=set()))
