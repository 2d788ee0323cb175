"""A stage starts from its frozen config, publishes whole, and writes its manifest last."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from dreamtune.errors import UserError
from dreamtune.plan import Plan
from dreamtune.settings.report import ReportConfig
from dreamtune.stage import Stage
from dreamtune.versions import ROOT, code_digest

SCRIPT = str(ROOT / "workflow/scripts/render_report.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plan = Plan()
    folder = plan.add("render_report", {"report": ReportConfig(examples=7)}, names={"experiment": "x"})
    plan.freeze()
    return folder


def stage(folder: Path) -> Stage:
    return Stage(SCRIPT, code_digest(SCRIPT), ["--out", str(folder)])


def test_manifest_names_every_output(folder: Path) -> None:
    with stage(folder) as job:
        assert job.section("report", ReportConfig).examples == 7
        (job.out / "sub").mkdir()
        (job.out / "sub/a.txt").write_text("abc")
        assert not (folder / "manifest.json").exists()
        job.counts = {"rows": 1}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["outputs"] == {
        "sub/a.txt": {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    }
    assert manifest["counts"] == {"rows": 1}
    assert (folder / "sub/a.txt").read_text() == "abc"
    assert not list(folder.glob(".out-*"))


def test_a_users_mistake_is_one_line_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, stage(folder) as job:
        (job.out / "half.txt").write_text("half")
        raise UserError("there is no column 'q'")
    assert end.value.code == 1
    assert capsys.readouterr().err == "render_report: there is no column 'q'\n"
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_bug_keeps_its_traceback_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage(folder) as job:
        (job.out / "half.txt").write_text(str(1 / 0))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_changed_code_stops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(spec | {"code": "0" * 12}))
    with pytest.raises(SystemExit):
        stage(folder)
    assert "the code changed since version" in capsys.readouterr().err


def test_a_second_writer_replaces_whole_folders(folder: Path) -> None:
    for text in ("first", "second"):
        with stage(folder) as job:
            (job.out / "adapter").mkdir()
            (job.out / "adapter/weights").write_text(text)
    assert (folder / "adapter/weights").read_text() == "second"
    assert json.loads((folder / "manifest.json").read_text())["outputs"]["adapter/weights"]["bytes"] == len("second")


def test_what_a_killed_attempt_left_is_cleared_and_nothing_else(folder: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    killed, running, elsewhere = (folder / f".out-{host}-{end}" for end in (ended.pid, os.getppid(), "2-17"))
    for left in (killed, running, elsewhere):
        left.mkdir()
    with stage(folder):
        assert not killed.exists() and running.exists() and elsewhere.exists()


def test_unfinished_input_is_named(folder: Path, tmp_path: Path) -> None:
    plan = Plan()
    child = plan.add("score_answers", {}, reads={"answers": folder})
    plan.freeze()
    script = str(ROOT / "workflow/scripts/score_answers.py")
    with pytest.raises(UserError, match=r"answers: results/render_report/.* is not finished"):
        Stage(script, code_digest(script), ["--out", str(child)]).reads()


def test_plan_freezes_once_and_remembers_what_was_submitted(folder: Path) -> None:
    version = folder.name
    assert Plan()["render_report", version]["settings"]["report"]["examples"] == 7
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        Plan()["render_report", version]
