"""Two jobs of one version, and what a killed one left: a version holds the files of one job, and nothing else."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from dreamtune.settings.report import ReportConfig
from dreamtune.workflow import stage as stage_module
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.scratch import replace_folder
from dreamtune.workflow.verification import verify
from dreamtune.writers import writer_name
from stages import ended_writer, stage


def write_adapter(folder: Path, text: str) -> None:
    """Make the version of `folder` by a job whose files hold `text`."""
    with stage(folder) as job:
        (job.out / "adapter").mkdir()
        (job.out / "adapter/weights").write_text(text)
        (job.out / "log").write_text(text)


@pytest.fixture
def private_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job has a private folder of its own, though both jobs of a test are this process."""
    own = lambda parent, prefix: Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))  # noqa: E731
    monkeypatch.setattr(stage_module, "private_folder", own)


@pytest.mark.usefixtures("private_to_each")
def test_what_was_filed_first_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As when SLURM requeues the job of a node that it has lost, and the process there runs on to its end."""
    with stage(folder) as lost:
        (lost.out / "log").write_text("lost")
        write_adapter(folder, "requeued")
        filed = (folder / "manifest.json").read_bytes()
    assert (folder / "manifest.json").read_bytes() == filed and (folder / "log").read_text() == "requeued"
    meanwhile = f"render_report: another job has filed version {folder.name} meanwhile; that one stands, and this job's"
    assert meanwhile in capsys.readouterr().err
    assert not list(folder.glob(".out*"))


def test_what_was_damaged_since_it_was_filed_is_replaced_whole(folder: Path) -> None:
    write_adapter(folder, "first")
    (folder / "adapter/weights").write_text("changed")
    (folder / "adapter/more").write_text("of nobody")
    write_adapter(folder, "second")
    assert (folder / "adapter/weights").read_text() == "second" and not (folder / "adapter/more").exists()
    verify(folder)


@pytest.mark.usefixtures("private_to_each")
def test_writers_that_end_at_once_file_one_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes to file its output while the first has moved one of two into place."""
    move, second = stage_module.replace_folder, Thread(target=write_adapter, args=(folder, "second"))

    def pausing(source: Path, target: Path, aside: Path) -> None:
        move(source, target, aside)
        if not second.ident:
            second.start()
            second.join(0.5)

    monkeypatch.setattr(stage_module, "replace_folder", pausing)
    write_adapter(folder, "first")
    second.join()
    assert {(folder / "adapter/weights").read_text(), (folder / "log").read_text()} == {"first"}
    verify(folder)


def test_writers_that_replace_the_same_folder_at_once_do_not_fail(tmp_path: Path) -> None:
    target = tmp_path / "adapter"

    def write(name: str) -> None:
        for number in range(100):
            source, aside = tmp_path / f"{name}-{number}", tmp_path / f"aside-{name}-{number}"
            source.mkdir()
            (source / "weights").write_text("same")
            aside.mkdir()
            replace_folder(source, target, aside)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, "ab"))
    assert (target / "weights").read_text() == "same"


def test_what_a_killed_attempt_left_is_cleared_and_nothing_else(folder: Path) -> None:
    names = (ended_writer(), writer_name(), f"{'0' * 12}-7-7")
    killed, running, elsewhere = (folder / f".out-files.{name}.aa" for name in names)
    long_ago = folder / f".out-files.{'0' * 12}-8-8.aa"
    manifest, living = (folder / f".manifest.json.{name}.aa" for name in names[:2])
    for left in (killed, running, elsewhere, long_ago):
        left.mkdir()
    os.utime(long_ago, (0, 0))
    for left in (manifest, living):
        left.write_text("half")
    with stage(folder):
        assert not killed.exists() and not long_ago.exists() and running.exists() and elsewhere.exists()
    assert not manifest.exists() and living.exists()


def test_a_job_killed_after_its_manifest_leaves_nothing_for_long(folder: Path, tmp_path: Path) -> None:
    """A finished version has no further job, so the next plan to be frozen clears up after the last one."""
    with stage(folder) as job:
        (job.out / "report.html").write_text("whole")
    part, private = folder / "parts/abc/1-of-2", folder / f".out-files.{ended_writer()}.aa"
    memory = folder / ".digests.json"
    for left in (part, private):
        left.mkdir(parents=True)
    memory.write_text("{}")
    os.utime(memory, (0, 0))
    again = Plan()
    again.add("render_report", {"report": ReportConfig(examples=7)}, names={"experiment": "x"})
    again.freeze()
    names = {"report.html", "manifest.json", "config.json", ".digests.json"}
    assert {path.name for path in folder.iterdir()} == names
