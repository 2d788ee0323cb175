"""An attack on what lies between stages: each kind of file of each stage is damaged before another stage reads it.

Every case must end with exit status 1 and one line that names the file and its version, with nothing filed. The
experiment's versions are small files in the right formats, made by functions: what is judged is that a stage stops
before it reads them. docs/reliability.md has the table.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from conftest import ROOT
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.stage import Stage
from versions import write_experiment

SHARDS, TRAIN, ANSWER = "prepare_shards", "train_adapter", "generate_answers"
LIKELIHOOD, SCORE, AUDIT, REFERENCES, REPORT, MERGE = (
    "evaluate_likelihood",
    "score_answers",
    "audit_contamination",
    "audit_references",
    "render_report",
    "merge_adapter",
)
READERS = {  # each file that a stage reads of another, and the stages that read it
    f"{SHARDS}/shards.json": [TRAIN, ANSWER, LIKELIHOOD, AUDIT, REFERENCES, MERGE, REPORT],
    f"{SHARDS}/train/train-00000.arrow": [TRAIN, LIKELIHOOD, AUDIT],
    f"{SHARDS}/validation/validation-00000.arrow": [TRAIN],
    f"{SHARDS}/test/test-00000.arrow": [ANSWER, LIKELIHOOD, REFERENCES, MERGE],
    f"{SHARDS}/audit.json": [REPORT],
    f"{SHARDS}/lengths.parquet": [REPORT],
    f"{SHARDS}/questions.parquet": [REPORT],
    f"{TRAIN}/adapter/adapter_model.safetensors": [ANSWER, LIKELIHOOD, MERGE],
    f"{TRAIN}/adapter/adapter_config.json": [ANSWER, LIKELIHOOD, MERGE],
    f"{TRAIN}/training.json": [TRAIN, LIKELIHOOD, REPORT],
    f"{TRAIN}/gate.json": [TRAIN, REPORT],
    f"{TRAIN}/train_log.jsonl": [REPORT],
    f"{ANSWER}/answers.parquet": [SCORE, REPORT],
    f"{ANSWER}/generation.json": [REPORT],
    f"{LIKELIHOOD}/likelihood.parquet": [REPORT],
    f"{LIKELIHOOD}/likelihood_full.parquet": [REPORT],
    f"{LIKELIHOOD}/likelihood.json": [REPORT],
    f"{SCORE}/scores.parquet": [REPORT],
    f"{SCORE}/scores.json": [REPORT],
    f"{AUDIT}/contamination.json": [REPORT],
    f"{AUDIT}/questions.parquet": [REPORT],
    f"{REFERENCES}/references.json": [REPORT],
}


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Edit a JSON file."""
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "one bit": flip_a_bit,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "empty": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "a folder in its place": as_a_folder,
    "a pipe in its place": as_a_pipe,
    "a link to nothing": as_a_link_to_nothing,
}


def parquet(**columns: pl.Expr) -> Callable[[Path], Any]:
    return lambda path: pl.read_parquet(path).with_columns(**columns).write_parquet(path)


def one_mantissa_bit(path: Path) -> None:
    tensors = load_file(path)
    tensors["lora_A"].view(np.uint32)[3] ^= 1
    save_file(tensors, path)


def taken_from_another_version(path: Path) -> None:
    """Take the file of the same name from another version of the stage: smoke's adapter over full's, for one."""
    results, stage, _, *name = path.parts
    shutil.copy2(min(set(Path(results, stage).glob("/".join(["*", *name]))) - {path}), path)


NAMED = {  # what the first attack filed as other results
    "another version's answers": (f"{ANSWER}/answers.parquet", SCORE, taken_from_another_version),
    "one mantissa bit of the adapter": (f"{TRAIN}/adapter/adapter_model.safetensors", ANSWER, one_mantissa_bit),
    "smoke's adapter over full's": (f"{TRAIN}/adapter/adapter_model.safetensors", MERGE, taken_from_another_version),
    "lora_alpha": (
        f"{TRAIN}/adapter/adapter_config.json",
        LIKELIHOOD,
        lambda path: change(path, lambda config: config | {"lora_alpha": 16}),
    ),
    "mask_id": (
        f"{SHARDS}/shards.json",
        TRAIN,
        lambda path: change(path, lambda meta: meta | {"tokenizer": meta["tokenizer"] | {"mask_id": 7}}),
    ),
    "nll_tuned × 0.1": (f"{LIKELIHOOD}/likelihood.parquet", REPORT, parquet(nll_tuned=pl.col("nll_tuned") * 0.1)),
    "all answers correct": (f"{SCORE}/scores.parquet", REPORT, parquet(correct=pl.lit(value=True))),
    "a gate that passed": (f"{TRAIN}/gate.json", TRAIN, lambda path: change(path, lambda gate: gate | {"passed": 1})),
    "another version's shards.json": (
        f"{SHARDS}/shards.json",
        ANSWER,
        lambda path: path.write_text('{"tokenizer": {"mask_id": 0}}'),
    ),
}
CASES = {
    **{f"{file}: {what}": (file, of[0], damage) for file, of in READERS.items() for what, damage in DAMAGES.items()},
    **{f"{file}: read by {of}": (file, of, flip_a_bit) for file, others in READERS.items() for of in others[1:]},
    **{f"{name}, read by {of}": (file, of, damage) for name, (file, of, damage) in NAMED.items()},
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    root = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return root, write_experiment(root)


@pytest.fixture
def plan(experiment: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of an experiment of which everything is finished, in a copy that is the working directory."""
    shutil.copytree(experiment[0], tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    codes = {stage: spec["code"] for (stage, _), spec in experiment[1].items()}
    monkeypatch.setattr("dreamtune.workflow.stage.code_digest", lambda script: codes[Path(script).stem])  # found once
    return experiment[1]


def reading(plan: Plan, stage: str, read: str) -> tuple[Path, Path]:
    """Return a version of `stage` that is to be made anew, and a version of the stage `read` that it reads."""
    for (name, version), spec in reversed(plan.items()):
        found = [folder for folder in {**spec["reads"], **spec["order_only"]}.values() if Path(folder).parts[1] == read]
        if name == stage and found:
            folder = Path("results") / stage / version
            for path in set(folder.iterdir()) - {folder / "config.json"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return folder, Path(found[-1])
    raise AssertionError(f"no {stage} reads {read}")


def job(plan: Plan, folder: Path, stage: str | None = None) -> Stage:
    """Return the job that makes the version `folder`, run by the script of its stage or of `stage`."""
    name = stage or folder.parent.name
    code = next(spec["code"] for (planned, _), spec in plan.items() if planned == name)
    return Stage(str(ROOT / f"workflow/scripts/{name}.py"), code, ["--out", str(folder)])


def refusal(plan: Plan, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the stage of `folder` stops before it reads anything; nothing is filed."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end, job(plan, folder) as stage:
        stage.reads()
        (stage.out / "filed").write_text("as another result")
    printed = capsys.readouterr().err
    assert end.value.code == 1 and printed.count("\n") == 1 and "Traceback" not in printed
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return printed


@pytest.mark.parametrize(("file", "stage", "damage"), CASES.values(), ids=CASES)
def test_a_damaged_file_is_named_and_nothing_is_filed(
    plan: Plan, file: str, stage: str, damage: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    read, _, name = file.partition("/")
    folder, source = reading(plan, stage, read)
    damage(source / name)
    said = refusal(plan, folder, capsys)
    assert f": {source}/{name} of version {read}/{source.name} " in said
    assert f"to have it made again, delete it (rm -r {source}) and start snakemake" in said


def test_undamaged_versions_are_read(plan: Plan) -> None:
    for stage, version in list(plan):
        folder = Path("results") / stage / version
        assert job(plan, folder).reads().keys() >= plan[stage, version]["reads"].keys()
