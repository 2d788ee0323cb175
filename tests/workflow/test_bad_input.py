"""What a user can get wrong: one clear line, no traceback, nothing half-written.

Through the plan and the script of the first stage, as the workflow runs them, and once each through Snakemake.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from dreamtune.errors import UserError
from project import MICRO, Project

ROWS, MODEL = "resources/tiny-dream/rows.parquet", "resources/tiny-dream"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("bad"))


def prepare(project: Project) -> str:
    """Return what the workflow's first stage says: the plan, in this process, and then the job that it leads to."""
    try:
        plan, latest = project.plan()
    except UserError as error:
        return f"dreamtune: {error}"
    [shards] = {folders["shards"] for folders in latest.values()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        plan.freeze()
    command = [project.python, "workflow/scripts/prepare_shards.py", "--out", str(shards)]
    done = subprocess.run(command, cwd=project.folder, env=project.environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stdout + done.stderr


def through_snakemake(project: Project) -> str:
    return project.snakemake("--until", "prepare_shards", fails=True)


def without_a_column(folder: Path) -> None:
    pl.read_parquet(folder / ROWS).drop("solution").write_parquet(folder / ROWS)


def without_bytes(folder: Path) -> None:
    (folder / ROWS).write_bytes(b"")


def without_rows(folder: Path) -> None:
    pl.read_parquet(folder / ROWS).clear().write_parquet(folder / ROWS)


def as_csv(folder: Path) -> None:
    (folder / ROWS).write_text("question,solution\n1 + 1?,2\n")


def without_weights(folder: Path) -> None:
    (folder / MODEL / "model.safetensors").unlink()


def with_pickled_weights(folder: Path) -> None:
    (folder / MODEL / "model.safetensors").rename(folder / MODEL / "pytorch_model.bin")


def without_a_mask_token(folder: Path) -> None:
    for name, key in (("config.json", "mask_token_id"), ("tokenizer_config.json", "mask_token")):
        path = folder / MODEL / name
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    path = folder / MODEL / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if "mask" not in token["content"]]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("spoil", "expected", "how"),
    [
        (without_a_column, f"{ROWS} has no column 'solution'", through_snakemake),
        (without_a_column, f"{ROWS} has no column 'solution'", prepare),
        (without_bytes, f"{ROWS} is an empty file", prepare),
        (without_rows, "no rows in", prepare),
        (as_csv, f"{ROWS} is not a parquet file", prepare),
        (without_weights, f"{MODEL} holds no model.safetensors", through_snakemake),
        (without_weights, f"{MODEL} holds no model.safetensors", prepare),
        (with_pickled_weights, f"{MODEL} has only pickled weights (pytorch_model.bin)", prepare),
        (without_a_mask_token, "has no mask token", prepare),
    ],
)
def test_one_line_and_nothing_left(
    project: Project, spoil: Callable[[Path], None], expected: str, how: Callable[[Project], str]
) -> None:
    kept = project.folder / "kept"
    shutil.copytree(project.folder / MODEL, kept)
    try:
        spoil(project.folder)
        output = how(project)
    finally:
        shutil.rmtree(project.folder / MODEL)
        kept.rename(project.folder / MODEL)
    [line] = [line for line in output.splitlines() if expected in line]
    assert line.startswith(("prepare_shards: ", "dreamtune: "))
    assert "Traceback" not in output and "MissingOutputException" not in output
    left = {path.name for path in (project.folder / "results").glob("*/*/*")}
    assert left <= {"config.json", "job.log"}


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ("files: [b.parquet], answer: solution", "b.parquet has no column 'question' (did you mean 'questions'?)"),
        ("files: ['no-*.parquet']", "no file matches no-*.parquet"),
    ],
)
def test_a_bad_benchmark_is_one_line_before_anything_is_trained(
    project: Project, benchmark: str, expected: str
) -> None:
    pl.DataFrame({"questions": ["1 + 1?"], "solution": ["2"]}).write_parquet(project.folder / "b.parquet")
    kept = (project.folder / MICRO).read_text()
    try:
        project.edit(MICRO, "evaluate:", f"evaluate:\n  benchmarks: [{{name: b, {benchmark}}}]")
        project.edit(MICRO, "data:", "data:\n  contaminated: drop")
        output = prepare(project)
    finally:
        (project.folder / MICRO).write_text(kept)
    [line] = [line for line in output.splitlines() if expected in line]
    assert line.startswith(("prepare_shards: ", "dreamtune: ")) and "Traceback" not in output


def test_rows_without_a_question_are_counted_by_reason(project: Project) -> None:
    rows = pl.read_parquet(project.folder / ROWS).with_row_index("i")
    gone = pl.when(pl.col("i") % 10 == 0).then(None).otherwise("question")
    rows.with_columns(question=gone).drop("i").write_parquet(project.folder / "nulls.parquet")
    project.edit(MICRO, ROWS, "nulls.parquet")
    project.snakemake("--until", "prepare_shards")
    [manifest] = (project.folder / "results").glob("prepare_shards/*/manifest.json")
    counts = json.loads(manifest.read_text())["counts"]
    assert counts["dropped"] == {"null_question": 138}
    assert sum(counts["rows"].values()) == counts["source_rows"] - 138 == 1372 - 138
