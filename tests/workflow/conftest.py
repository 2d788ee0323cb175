"""What several files of tests of the workflow need."""

from pathlib import Path

import pytest

from dreamtune.settings.report import ReportConfig
from dreamtune.workflow.plan import Plan


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a planned version of a report, in which nothing but its frozen config lies."""
    monkeypatch.chdir(tmp_path)
    plan = Plan()
    folder = plan.add("render_report", {"report": ReportConfig(examples=7)}, names={"experiment": "x"})
    plan.freeze()
    return folder
