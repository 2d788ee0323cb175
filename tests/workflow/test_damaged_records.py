"""An attack on the records beside the files: manifest.json, config.json, part.json; and files that nobody listed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.errors import UserError
from dreamtune.settings.generate import GenerateConfig
from dreamtune.workflow.code import code_digest
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage
from tests.workflow.test_damage import (
    ANSWER,
    AUDIT,
    DAMAGES,
    LIKELIHOOD,
    MERGE,
    REPORT,
    SCORE,
    SHARDS,
    TRAIN,
    change,
    experiment,  # noqa: F401, a fixture
    job,
    plan,  # noqa: F401, a fixture
    reading,
    refusal,
    taken_from_another_version,
)


def edit_field(field: str, value: Any) -> Callable[[Path], Any]:
    return lambda path: change(path, lambda record: record | {field: value})


def without_digest(edit: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Edit a record and remove its digest, as if an earlier release had written it."""
    return lambda path: change(path, lambda record: edit({k: v for k, v in record.items() if k != "digest"}))


def taken_from_another_stage(path: Path) -> None:
    shutil.copy2(next(Path("results").glob(f"{AUDIT}/*/{path.name}")), path)


RECORDS: dict[str, Callable[[Path], Any]] = {  # damages of manifest.json, config.json and part.json
    **{name: damage for name, damage in DAMAGES.items() if name != "longer"},  # by a newline, which means nothing
    "{}": lambda path: path.write_text("{}"),
    "[]": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "nested too deeply": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "another stage's": taken_from_another_stage,
    "stage": edit_field("stage", "merge_adapter"),
    "version": edit_field("version", "0" * 12),
    "settings": edit_field("settings", {"seed": 1}),
    "reads": edit_field("reads", {}),
    "code": edit_field("code", "0" * 12),
    "runtime": edit_field("runtime", None),
    "settings, no digest": without_digest(lambda record: record | {"settings": {"seed": 1}}),
    "nothing but its name": without_digest(lambda record: {name: record[name] for name in ("stage", "version")}),
}
MANIFESTS = RECORDS | {
    "another version's": taken_from_another_version,
    "counts": edit_field("counts", {"rows": 10}),
    "wall_s": edit_field("wall_s", 0.1),
    "outputs": edit_field("outputs", {}),
    "no outputs, no digest": without_digest(lambda record: record | {"outputs": {}}),
    "outputs of no sense": without_digest(lambda record: record | {"outputs": ["answers.parquet"]}),
    "entries of no sense": without_digest(lambda record: record | {"outputs": {"answers.parquet": None}}),
}


@pytest.mark.parametrize("damage", MANIFESTS.values(), ids=MANIFESTS)
def test_a_damaged_manifest_is_named(
    plan: Plan,  # noqa: F811
    damage: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, source = reading(plan, SCORE, ANSWER)
    damage(source / "manifest.json")
    said = refusal(plan, folder, capsys)
    assert f": {source}" in said
    assert f"rm -r {source}" in said or "is not finished (no manifest.json); run snakemake to make it" in said


@pytest.mark.parametrize("missing", ["scores.parquet", ""])
def test_one_sides_scores_are_missing(plan: Plan, missing: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    folder, source = reading(plan, REPORT, SCORE)
    shutil.rmtree(source) if not missing else (source / missing).unlink()
    assert str(source) in refusal(plan, folder, capsys)


CONFIGS = RECORDS | {
    "another version's": taken_from_another_version,
    "order_only": edit_field("order_only", {}),  # full without its gate
    "inputs": edit_field("inputs", {}),
}


@pytest.mark.parametrize("damage", CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_frozen_config_is_named_by_the_job_and_by_its_driver(
    plan: Plan,  # noqa: F811
    damage: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job on a node takes resources and threads from the frozen config, too, when it parses the Snakefile again."""
    folder, _ = reading(plan, TRAIN, TRAIN)
    damage(folder / "config.json")
    said = refusal(plan, folder, capsys)
    assert f"train_adapter: {folder}/config.json " in said
    assert "start snakemake again" in said or "does not exist; snakemake writes it" in said
    with pytest.raises(UserError, match=rf"^{folder}/config\.json "):
        Plan()[TRAIN, folder.name]


def test_snakemake_writes_a_damaged_frozen_config_anew(plan: Plan) -> None:  # noqa: F811
    folder, _ = reading(plan, TRAIN, TRAIN)
    before = (folder / "config.json").read_bytes()
    edit_field("order_only", {})(folder / "config.json")
    plan.freeze()
    assert (folder / "config.json").read_bytes() == before


def test_a_version_of_another_stage_is_refused(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    folder, _ = reading(plan, SCORE, ANSWER)
    with pytest.raises(SystemExit):
        job(plan, folder, REPORT)
    assert f"{folder} is a version of score_answers; give --out a version of render_report" in capsys.readouterr().err


PLANTED = {  # what a stage would find by its name, or by its folder's
    "a pickled adapter": (TRAIN, "adapter/adapter_model.bin", ANSWER),
    "a model beside the adapter": (TRAIN, "model/config.json", LIKELIHOOD),
    "a further shard": (SHARDS, "test/test-00001.arrow", MERGE),
    "a further table": (ANSWER, "questions.parquet", REPORT),
    "a folder within": (TRAIN, "adapter/older/adapter_config.json", MERGE),
}


@pytest.mark.parametrize(("read", "file", "stage"), PLANTED.values(), ids=PLANTED)
def test_a_file_that_no_manifest_lists_is_named(
    plan: Plan,  # noqa: F811
    read: str,
    file: str,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, source = reading(plan, stage, read)
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_bytes(b"")
    said = refusal(plan, folder, capsys)
    assert f"is not among the files of version {read}/{source.name}; move it out of there, or" in said


def test_an_empty_folder_of_weights_is_named(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    folder, source = reading(plan, ANSWER, TRAIN)
    (source / "model").mkdir()  # which would be taken for the weights of full fine-tuning
    assert f"{source}/model is not among the files of version" in refusal(plan, folder, capsys)


def test_what_no_stage_reads_may_lie_there(plan: Plan) -> None:  # noqa: F811
    folder, source = reading(plan, SCORE, ANSWER)
    for name in ("job.log", "benchmark.tsv", ".out-host-1"):
        (source / name).write_text("")
    (source / "checkpoints/step-000002").mkdir(parents=True)
    assert job(plan, folder).reads() == {"answers": source}


@pytest.fixture
def gathering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A version whose two parts are made; returns its folder and that of its second part."""
    monkeypatch.chdir(tmp_path)
    made = Plan()
    folder = made.add(ANSWER, {"generate": GenerateConfig(scatter=2)})
    made.freeze()
    script = str(ROOT / f"workflow/scripts/{ANSWER}.py")
    for part in ("1/2", "2/2"):
        with Stage(script, code_digest(script), ["--out", str(folder), "--part", part]) as stage:
            (stage.out / "part.parquet").write_text(part)
    return folder, stage.folder


def other_part(path: Path) -> None:
    shutil.copy2(path.parents[1] / "1-of-2" / path.name, path)


PARTS = {
    **{f"part.parquet: {name}": ("part.parquet", damage) for name, damage in DAMAGES.items()},
    **{
        f"part.json: {name}": ("part.json", RECORDS[name])
        for name in ("one bit", "empty", "removed", "a folder in its place", "{}", "[]", "version")
    },
    "the other part's file": ("part.parquet", other_part),
    "the other part's record": ("part.json", other_part),
    "a further file": ("more.parquet", lambda path: path.write_text("")),
}


@pytest.mark.parametrize(("file", "damage"), PARTS.values(), ids=PARTS)
def test_a_damaged_part_is_named(
    gathering: tuple[Path, Path], file: str, damage: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, part = gathering
    damage(part / file)
    script = str(ROOT / f"workflow/scripts/{ANSWER}.py")
    with pytest.raises(SystemExit) as end, Stage(script, code_digest(script), ["--out", str(folder)]) as stage:
        stage.parts()
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1 and f"{part}/{file}" in said
    assert f"rm -r {part}" in said or "is not finished" in said
    assert not (folder / "manifest.json").exists()
