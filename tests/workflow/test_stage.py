"""A stage starts from its frozen config, publishes whole, and writes its manifest last."""

import gc
import json
import os
import shutil
from pathlib import Path

import pytest

from dreamtune.device.caches import job_caches
from dreamtune.device.usage import line
from dreamtune.errors import UserError
from dreamtune.inputs import identity
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.report import ReportConfig
from dreamtune.workflow.code import ROOT, code_digest
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage
from stages import ended_writer, stage
from versions import freeze, specification


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
    phases = manifest["phases_s"]
    assert {"imports", "identifying", "writing"} <= phases.keys() and all(spent >= 0 for spent in phases.values())
    assert (folder / "sub/a.txt").read_text() == "abc"
    assert not list(folder.glob(".out*"))


def test_a_job_ends_with_what_it_used_of_what_it_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stage(folder):
        pass
    manifest = json.loads((folder / "manifest.json").read_text())
    used = manifest["usage"]
    assert used["asked"]["memory_gib"] == 4.0 and used["asked"]["minutes"] == 20, "render_report's in demand.py"
    assert used["wall_s"] == manifest["wall_s"] and used["cpu_s"] > 0 and used["memory_gib"] > 0
    assert capsys.readouterr().err == f"render_report: {line(used)}\n"


def test_a_clock_that_is_set_back_makes_no_time_negative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(folder):
        monkeypatch.setattr("time.time", lambda: 1.0)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 0 <= manifest["wall_s"] < 86400 and manifest["started"] <= manifest["finished"]


def test_garbage_is_looked_for_as_usual_once_the_job_begins(folder: Path) -> None:
    before = gc.get_threshold()
    gc.set_threshold(1_000_000)  # as workflow/scripts/_src.py does before the imports
    try:
        with stage(folder):
            assert gc.get_threshold() == (700, 10, 10) and gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_the_manifest_names_the_image_and_its_lock(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/mine.sif")
    monkeypatch.setattr("sys.prefix", str(tmp_path))  # the image's environment, where the lock lies beside the packages
    (tmp_path / "requirements.lock").write_text("abc")
    with stage(folder):
        pass
    assert json.loads((folder / "manifest.json").read_text())["image"] == "mine.sif, lock ba7816bf8f01"


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
    with pytest.raises(SystemExit):
        stage(freeze(specification("render_report", code="1" * 12)))
    assert "the code changed since version" in capsys.readouterr().err


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned prepare_shards on a file and a tokenizer of its own; returns the version's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "resources/tiny-dream", "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    Path("rows.parquet").write_bytes(b"first")
    plan, model = Plan(), ModelConfig(path="model")
    data = DataConfig(files=["*.parquet"])
    folder = plan.add("prepare_shards", {"data": data}, ("data", "tokenizer"), unhashed={"model": model})
    plan.freeze()
    plan.digests.save()
    return folder


@pytest.mark.parametrize("cache", ["results/.cache", None])
def test_a_job_has_the_caches_that_the_configuration_names_and_its_manifest_says_what_it_took(
    folder: Path, cache: str | None
) -> None:
    plan, model = Plan(), ModelConfig(path=str(ROOT / "resources/tiny-dream"), cache=cache)
    sections = {"report": ReportConfig(examples=7), "model": model}
    folder = plan.add("render_report", sections, ("model",), names={"experiment": cache})
    plan.freeze()
    with stage(folder):
        caches = job_caches()
        assert (caches and str(caches.folder)) == cache
        if caches:
            assert "model.safetensors" in caches.model
            caches.taken["nf4"] = "0123"
    assert job_caches() is None
    assert json.loads((folder / "manifest.json").read_text())["caches"] == ({"nf4": "0123"} if cache else {})


def test_a_job_remembers_the_digests_that_it_had_to_work_out(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("results/.digests.json").unlink()
    with prepares(shards):
        pass
    monkeypatch.setattr(identity, "sha256_file", lambda path: pytest.fail(f"{path} is read again"))
    with prepares(shards):
        pass


def prepares(folder: Path) -> Stage:
    script = str(ROOT / "workflow/scripts/prepare_shards.py")
    return Stage(script, code_digest(script), ["--out", str(folder)])


@pytest.mark.parametrize("what", ["data", "a further file", "tokenizer"])
@pytest.mark.parametrize("when", ["queued", "running"])
def test_inputs_that_were_replaced_are_not_filed(
    shards: Path, what: str, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def replace() -> None:
        if what == "tokenizer":
            Path("model/tokenizer.json").write_text("{}")
        else:
            Path("rows.parquet" if what == "data" else "more.parquet").write_bytes(b"other")

    job = prepares(shards)
    if when == "queued":
        replace()
    with pytest.raises(SystemExit), job:
        assert when == "running", "it must not even start"
        (job.out / "half.txt").write_text("half")
        replace()
    name = "tokenizer" if what == "tokenizer" else "data"
    assert f"the {name} changed since version {shards.name} was submitted" in capsys.readouterr().err
    assert [path.name for path in shards.iterdir()] == ["config.json"]


def test_no_training_is_lost_for_what_became_of_the_models_folder_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "resources/tiny-dream", "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    plan = Plan()
    folder = plan.add("train_adapter", {"model": ModelConfig(path="model")}, ("model",))
    plan.freeze()
    script = str(ROOT / "workflow/scripts/train_adapter.py")
    Path("model/notes.txt").write_text("nothing that is read")
    with Stage(script, code_digest(script), ["--out", str(folder)]):
        shutil.rmtree("model")
    assert (folder / "manifest.json").exists()


def test_a_touched_file_is_the_same_input(shards: Path) -> None:
    with prepares(shards):
        os.utime("rows.parquet")
    assert (shards / "manifest.json").exists()


def test_only_the_first_of_several_processes_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with stage(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_local_scratch_is_used_when_asked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's own variable names it; what is moved into place lies beside it first, on the results' own disk."""
    local = tmp_path / "local"
    killed = local / f".dreamtune-{os.getuid()}.{ended_writer()}.aa"
    killed.mkdir(parents=True)
    monkeypatch.setenv("NODE_DISK", str(local))
    monkeypatch.setenv("DREAMTUNE_SCRATCH", "$NODE_DISK")
    with stage(folder) as job:
        assert job.out.parent == local and not killed.exists()
        (job.out / "sub").mkdir()
        (job.out / "sub/a.txt").write_text("abc")
        assert [path.name for path in folder.iterdir() if not path.name.startswith(".out-")] == ["config.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["outputs"]) == ["sub/a.txt"] and (folder / "sub/a.txt").read_text() == "abc"
    assert not list(folder.glob(".out*")) and not list(local.iterdir())


def test_scratch_that_is_not_there_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DREAMTUNE_SCRATCH", "$NO_SUCH_VARIABLE/here")
    with pytest.raises(SystemExit), stage(folder):
        pytest.fail("it must not start")
    assert "DREAMTUNE_SCRATCH is '$NO_SUCH_VARIABLE/here', but $NO_SUCH_VARIABLE/here is no" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["config.json"]


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
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        Plan()["render_report", version]
