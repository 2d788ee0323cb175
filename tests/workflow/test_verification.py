"""How a version is verified: what is hashed, what is remembered of large files, other writers, several processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.digests import sha256_file
from dreamtune.errors import UserError
from dreamtune.settings.report import ReportConfig
from dreamtune.workflow import verification
from dreamtune.workflow.code import code_digest
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage
from dreamtune.workflow.verification import read_manifest, sealed, verify, version_of
from tests.workflow.test_damage import experiment, flip_a_bit, job, plan, reading, refusal  # noqa: F401, fixtures
from versions import finish, freeze, specification

LATEST = "results/latest/one"
CONTENT = b"0123456789" * 10


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished version with a large file, of 100 bytes, and a small one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verification, "LARGE", 50)
    folder = freeze(spec := specification("train_adapter"))
    (folder / "adapter").mkdir()
    (folder / "adapter/large").write_bytes(CONTENT)
    (folder / "small").write_bytes(b"small")
    finish(folder, spec)
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed, in order."""
    names: list[str] = []

    def recorded(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(verification, "sha256_file", recorded)
    return names


def test_a_large_file_is_hashed_once_and_a_small_one_each_time(version: Path, hashed: list[str]) -> None:
    for _ in range(3):
        verify(version)
    assert hashed == ["large", "small", "small", "small"]
    assert list(json.loads((version / ".digests.json").read_text())) == ["adapter/large"]
    assert not Path("results/.digests.json").exists(), "what is remembered stands per version"


def test_the_stage_that_wrote_a_large_file_has_hashed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verification, "LARGE", 50)
    made, script = Plan(), str(ROOT / "workflow/scripts/render_report.py")
    folder = made.add("render_report", {"report": ReportConfig()})
    made.freeze()
    with Stage(script, code_digest(script), ["--out", str(folder)]) as stage:
        (stage.out / "large").write_bytes(CONTENT)
    verify(folder)
    assert hashed == []


def written_to(path: Path) -> None:
    path.write_bytes(CONTENT[:-1] + b"x")


def replaced(path: Path) -> None:
    """Put another file in its place, of the same size and time of change."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(CONTENT[:-1] + b"x")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("damage", [written_to, replaced])
def test_a_large_file_that_was_changed_since_is_hashed_again(version: Path, damage: Callable[[Path], None]) -> None:
    verify(version)
    damage(version / "adapter/large")
    with pytest.raises(UserError, match="adapter/large of version train_adapter/.* was changed"):  # noqa: RUF043
        verify(version)


@pytest.mark.parametrize(
    "memory", ["", "{", "[]", "null", '{"adapter/large": null}', '{"adapter/large": [100, 1, 1, "0"]}']
)
def test_a_damaged_memory_only_costs_time(version: Path, hashed: list[str], memory: str) -> None:
    (version / ".digests.json").write_text(memory)
    verify(version)
    verify(version)
    assert hashed == ["large", "small", "small"]


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(
    version: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(verification, "write_json", refuse)
    verify(version)
    verify(version)
    assert hashed == ["large", "small"] * 2


def test_only_what_is_named_or_not_left_out_is_hashed(version: Path, hashed: list[str]) -> None:
    verify(version, "small")
    verify(version, unread=["adapter"])
    assert hashed == ["small", "small"]
    (version / "adapter/large").unlink()
    verify(version, unread=["adapter"])
    with pytest.raises(UserError, match="more of version .* is not listed in its manifest"):  # noqa: RUF043
        verify(version, "more")


@pytest.mark.parametrize("stage", [stage for stage in verification.UNREAD if stage != "halve"])  # tests/rungs
def test_a_stage_leaves_out_what_it_does_not_read(plan: Plan, stage: str) -> None:  # noqa: F811
    for read, names in verification.UNREAD[stage].items():
        folder, source = reading(plan, stage, read)
        for name in names:
            shutil.rmtree(source / name, ignore_errors=True)
        job(plan, folder).reads()


def test_another_writer_of_the_same_version_is_waited_for(version: Path) -> None:
    """A job whose driver was killed runs on; it moves the same files into place that are being verified."""
    beside = version / ".out-elsewhere-1"
    beside.mkdir()
    (version / "small").rename(beside / "small")
    Timer(0.25, (beside / "small").rename, [version / "small"]).start()
    verify(version)


def test_a_stage_verifies_once_in_each_process_that_reads(
    plan: Plan,  # noqa: F811
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under torchrun every process does: none may read what another has yet to refuse."""
    folder, source = reading(plan, "train_adapter", "train_adapter")
    monkeypatch.setenv("RANK", "1")
    stage = job(plan, folder)
    assert stage.reads() == stage.reads() and stage.reads()["gate"] == source
    assert sorted(hashed) == sorted(set(hashed)) and "gate.json" in hashed and "adapter_model.safetensors" not in hashed
    flip_a_bit(source / "gate.json")
    assert f"{source}/gate.json of version train_adapter/" in refusal(plan, folder, capsys)


def test_a_record_is_the_same_after_it_was_read() -> None:
    record = {"counts": {10: 1, 9: 2}, "share": 0.1, "name": "\udcff", "pair": (1, 2)}
    assert json.loads(json.dumps(sealed(record))) == sealed(sealed(record)) == sealed(record)


def test_a_version_of_an_earlier_release_has_no_digest_and_is_read(version: Path) -> None:
    record = json.loads((version / "manifest.json").read_text())
    del record["digest"]
    (version / "manifest.json").write_text(json.dumps(record))
    assert verify(version) == record and version_of(record) == read_manifest(version)["version"] == version.name


def test_a_stage_that_lies_elsewhere_behind_a_link_is_read(version: Path) -> None:
    version.parent.rename("large-disk")
    Path("results/train_adapter").symlink_to("../large-disk")
    verify(version)


@pytest.mark.parametrize(
    ("script", "damaged", "arguments"),
    [
        ("score_answers", "generate_answers/*/answers.parquet", ["--out", "{score_answers}"]),
        ("render_report", "score_answers/*/scores.parquet", ["--out", "{render_report}"]),
        (
            "publish",
            "render_report/*/report.html",
            ["--out", f"{LATEST}/.published-a", "report={render_report}"],
        ),
        ("print_verdict", "render_report/*/summary.json", ["one"]),
    ],
)
def test_real_scripts_end_in_one_line(plan: Plan, script: str, damaged: str, arguments: list[str]) -> None:  # noqa: F811
    folders = {stage: f"results/{stage}/{version}" for stage, version in plan}
    latest = Path(LATEST)
    latest.mkdir(parents=True)
    (latest / "report").symlink_to(f"../../../{folders['render_report']}")
    for path in Path("results").glob(damaged):
        flip_a_bit(path)
    command = [sys.executable, str(ROOT / f"workflow/scripts/{script}.py"), *(a.format(**folders) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{script}: ") and f"results/{Path(damaged).parts[0]}/" in done.stderr
    assert Path(damaged).name in done.stderr and "was changed: its SHA-256 is not that of its manifest" in done.stderr
    assert not list(latest.glob(".published-*"))
