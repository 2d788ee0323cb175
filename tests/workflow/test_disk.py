"""A full or read-only disk is one line that names the folder, at every stage, and leaves nothing half-written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.settings.report import ReportConfig
from dreamtune.workflow import stage as stage_module
from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.disk import disk_problem, one_line
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage

SCRIPTS = sorted(path.stem for path in (ROOT / "workflow/scripts").glob("*.py") if "Stage(" in path.read_text())
NUMBERS = np.random.default_rng(0).random(200_000)
TABLE = pa.table({"a": NUMBERS})


def as_shards(path: Path) -> None:
    with pa.ipc.new_stream(str(path), TABLE.schema) as stream:
        stream.write_table(TABLE)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "python": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "torch": lambda path: torch.save({"a": torch.tensor(NUMBERS)}, path),
    "polars": lambda path: pl.DataFrame({"a": NUMBERS}).write_parquet(path),
    "parquet": lambda path: pq.write_table(TABLE, path),
    "shards": as_shards,
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
@pytest.mark.parametrize("writer", WRITERS)
def test_what_each_library_says_of_a_full_disk_is_understood(writer: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.symlink_to("/dev/full")  # a writer that renames then replaces the link, and not the device
    with pytest.raises(Exception) as failed:
        WRITERS[writer](file)
    problem = disk_problem(failed.value, Path("results/x"))
    assert str(problem).startswith("the disk is full: cannot write to results/x (on ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_so_are_its_causes_and_other_errors_are_left_alone(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as cause:
            raise RuntimeError("cannot save") from cause
    except RuntimeError as error:
        assert "cannot write to results (on " in str(disk_problem(error, Path("results")))
    theirs = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in str(disk_problem(theirs, Path("results")))
    for other in (RuntimeError("a bug"), OSError(errno.ENOENT, "No such file"), UserError("No space left on device")):
        assert disk_problem(other, Path()) is None


@pytest.mark.parametrize(("free", "full"), [(0, True), (2**30, False)])
def test_what_may_have_another_reason_is_believed_of_a_disk_without_room(
    free: int, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamtune.workflow.disk.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    theirs = pl.exceptions.ComputeError("parquet: File out of specification: Invalid thrift: transport error")
    assert bool(disk_problem(theirs, tmp_path)) == full


@pytest.fixture
def job(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A planned job of the stage, as far as what all of them share: it reads nothing."""
    monkeypatch.chdir(tmp_path)
    plan = Plan()
    folder = plan.add(name, {"report": ReportConfig()})
    plan.freeze()
    script = str(ROOT / f"workflow/scripts/{name}.py")
    return Stage(script, code_digest(script), ["--out", str(folder)])


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "when"),
    [*((name, "writes") for name in SCRIPTS), *(("render_report", when) for when in ("begins", "moves", "files"))],
)
def test_each_stage_says_it_in_one_line_and_leaves_nothing(
    job: Stage, name: str, when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if when in ("begins", "moves", "files"):
        step = {"begins": "private_folder", "moves": "replace_folder", "files": "write_json"}[when]
        monkeypatch.setattr(stage_module, step, full)
    with pytest.raises(SystemExit) as end, job:
        (job.out / "half").write_bytes(b"half")
        if when == "writes":
            full()
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith(f"{name}: the disk is full: cannot write to {job.folder} (on ")
    assert said.count("\n") == 1
    assert {path.name for path in job.folder.iterdir()} <= {"config.json"} | ({"half"} if when == "files" else set())


def test_the_driver_names_the_folder_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*results \(on .*Not a directory"), one_line(Path("results")):
        write_json(tmp_path / "file/config.json", {})
