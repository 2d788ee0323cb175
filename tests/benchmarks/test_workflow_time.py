"""The benchmark of the whole workflow: jobs that ran side by side, and which targets it calls missed."""

from typing import Any

import pytest

from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import workflow_time

    return workflow_time


def test_jobs_side_by_side_and_targets(benchmark: Any) -> None:
    jobs = [
        {"job": "full", "s": 100.0, "work": 80.0, "imports": 9.0, "loading": 0.01, "from_s": 1.0, "to_s": 101.0},
        {"job": "score", "s": 4.0, "work": 3.0, "imports": 1.0, "from_s": 99.0, "to_s": 103.0},
    ]
    alone = 130 - benchmark.covered([(job["from_s"], job["to_s"]) for job in jobs])
    found = {"wall_s": 130.0, "no_job_s": alone, "jobs": jobs}
    assert found["no_job_s"] == 28.0
    assert benchmark.table(found).splitlines() == [
        "| job | s | work | beside it | imports |",
        "|---|---|---|---|---|",
        "| full | 100.0 | 80.0 | 20.0 | 9.0 |",
        "| score | 4.0 | 3.0 | 1.0 | 1.0 |",
        "whole: 130.0 s; jobs: 104.0 s; without any job: 28.0 s",
    ]
    assert benchmark.misses("first", found) == []  # nothing that jobs share was there yet
    assert benchmark.misses("again", found) == [
        "the again run took 130.0 s, above 120",
        "full took 20.0 s beside its work, above 15",
    ]
