"""Ring (d): the whole DAG on the embedded model, and what must and must not re-run (design, section 4)."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
from huggingface_hub import ModelCard

from conftest import ROOT
from project import MICRO, Project

GENERATION = {"generate_answers": 5, "score_answers": 5}  # one each of the base with a worked example
TUNED = {"generate_answers": 2, "score_answers": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which everything has run once."""
    project = Project(tmp_path_factory.mktemp("workflow"))
    project.edit(MICRO, "evaluate:\n", "evaluate:\n  few_shot: 1\n")
    project.said = project.snakemake()
    return project


@pytest.fixture
def project(finished: Project) -> Project:
    """The finished copy; an edit is taken back afterwards."""
    kept = {path: path.read_bytes() for path in finished.folder.rglob("*") if _is_source(finished.folder, path)}
    yield finished
    for path in [p for p in finished.folder.rglob("*") if _is_source(finished.folder, p)]:
        if path not in kept:
            path.unlink()
    for path, content in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _is_source(root: Path, path: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.is_file() and parts[0] not in {"results", ".snakemake"} and "__pycache__" not in parts


def test_everything_is_written(finished: Project) -> None:
    latest = finished.folder / "results/latest/one"
    assert (latest / "report.html").stat().st_size > 10_000
    summary = json.loads((latest / "summary.json").read_text())
    assert summary["training"]["steps"] == 2
    assert ", few-shot base " in summary["headline"]
    assert summary["versions"]["answers/test/greedy/few-shot-base"] != summary["versions"]["answers/test/greedy/base"]
    jsonschema.validate(summary, json.loads((ROOT / "docs/summary.schema.json").read_text()))
    card = ModelCard.load(latest / "adapter/README.md")
    assert card.data.verdict == summary["verdict"] and "Qwen2ForCausalLM.from_pretrained(" in card.text
    assert (latest / "adapter/adapter_model.safetensors").exists() and list((latest / "lm-eval/tuned").iterdir())
    for folder in json.loads((latest / "versions.json").read_text()).values():
        manifest = json.loads((finished.folder / folder / "manifest.json").read_text())
        assert manifest["version"] == Path(folder).name
        assert manifest["wall_s"] > 0
        for name, output in manifest["outputs"].items():
            assert (finished.folder / folder / name).stat().st_size == output["bytes"]
        assert {"job.log", "benchmark.tsv", "config.json"} <= {p.name for p in (finished.folder / folder).iterdir()}


def test_snakemakes_own_report_holds_ours_with_captions(finished: Project) -> None:
    finished.snakemake("--report=workflow.html")
    page = (finished.folder / "workflow.html").read_text()
    assert "ends in one verdict" in page and "report.html" in page and "summary.json" in page
    assert page.count("of experiment <strong>one</strong>") == 2
    assert finished.jobs() == {}


def test_a_run_ends_with_verdict_and_report_whether_or_not_it_had_jobs_and_a_dry_run_with_neither(
    finished: Project,
) -> None:
    sentence = json.loads((finished.folder / "results/latest/one/summary.json").read_text())["sentence"]
    for output in (finished.said, finished.snakemake()):
        assert output.count(f"one: {sentence}\n") == output.count("  results/latest/one/report.html\n") == 1
    assert sentence not in finished.snakemake("-n")


def test_the_index_lists_the_experiment(finished: Project) -> None:
    assert 'href="one/report.html"' in (finished.folder / "results/latest/index.html").read_text()


def test_nothing_re_runs(project: Project) -> None:
    assert project.jobs() == {}


def test_touch_of_everything_re_runs_nothing(project: Project) -> None:
    for path in project.folder.rglob("*"):
        if path.is_file():
            os.utime(path)
    assert project.jobs() == {}


def test_containers_on_or_off_re_run_nothing(project: Project, tmp_path: Path) -> None:
    command = tmp_path / "apptainer"  # asked for its version only: a plan runs nothing
    command.write_text("#!/bin/sh\necho apptainer version 1.4.5\n")
    command.chmod(0o755)
    project.environment["PATH"] = f"{tmp_path}:{project.environment['PATH']}"
    assert project.jobs("--sdm", "apptainer") == {}
    assert project.jobs("--use-singularity") == {}
    assert project.jobs() == {}


REPORT = {"render_report": 1, "publish": 1}
GRADES = {"audit_references": 1, "score_answers": 5, **REPORT}
TRAINING = {"train_adapter": 2, "evaluate_likelihood": 1}
EVERYTHING = {"prepare_shards": 1, "audit_references": 1, **TRAINING, **GENERATION, **REPORT}


RE_RUN_TABLE = [
    ("src/dreamtune/objective/diffusion.py", "Masked diffusion (", "Edited. Masked diffusion (", {}),
    ("src/dreamtune/objective/diffusion.py", "\nimport ", "\n# a comment\n\nimport ", {}),
    (MICRO, "checkpoint_minutes: 10.0", "checkpoint_minutes: 3.0", {}),
    (MICRO, "threads: 1", "threads: 2", {}),
    (MICRO, "max_new_tokens: 8", "scatter: 3\n  max_new_tokens: 8", {}),
    (MICRO, "likelihood: {draws: 1", "likelihood: {scatter: 3, draws: 1", {}),
    (MICRO, "  max_tokens: 64", "  max_tokens: 64\n  scatter: 3", {}),
    (MICRO, "  max_tail: 4", "  max_tail: 4\n  gpus: 2\n  nodes: 2", {}),
    (MICRO, "smoke: {rows: 8, epochs: 1, log_every: 1}", "smoke: {rows: 8, epochs: 1, log_every: 2}", {}),
    (MICRO, "  quantization: nf4\n  dtype: float32\n", "  dtype: float32\n  quantization: nf4\n", {}),
    (MICRO, "learning_rate: 1e-3", "learning_rate: 2e-3", TRAINING | TUNED | REPORT),
    (MICRO, "temperature: 0.7", "temperature: 0.9", TUNED | REPORT),
    (MICRO, "max_new_tokens: 8", "max_new_tokens: 9", GENERATION | REPORT),
    (MICRO, "few_shot: 1", "few_shot: 2", {"generate_answers": 1, "score_answers": 1, **REPORT}),
    (MICRO, "few_shot: 1", "few_shot: 0", REPORT),
    (MICRO, "smoke: {rows: 8", "smoke: {rows: 7", {"train_adapter": 1, **REPORT}),
    (MICRO, "examples: 5", "examples: 6", REPORT),
    ("src/dreamtune/report/template.html.j2", "</body>", "<hr></body>", REPORT),
    ("src/dreamtune/objective/diffusion.py", "\nimport ", "\nEDITED = 1\nimport ", TRAINING | TUNED | REPORT),
    ("src/dreamtune/scoring/references.py", "\nimport re\n", "\nEDITED = 1\nimport re\n", GRADES),
    ("src/dreamtune/data/truncation.py", "\nimport ", "\nEDITED = 1\nimport ", EVERYTHING),
]


@pytest.mark.parametrize(("file", "old", "new", "expected"), RE_RUN_TABLE)
def test_re_run_table(project: Project, file: str, old: str, new: str, expected: dict[str, int]) -> None:
    """By the plan alone: what it holds that is not finished."""
    project.edit(file, old, new)
    assert project.stale() == expected


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([row[:3] for row in RE_RUN_TABLE if not row[3]], {}),
        ([(MICRO, "learning_rate: 1e-3", "learning_rate: 2e-3")], TRAINING | TUNED | REPORT),
        ([("src/dreamtune/data/truncation.py", "\nimport ", "\nEDITED = 1\nimport ")], EVERYTHING),
    ],
    ids=["all edits that change nothing", "learning rate", "code of all stages"],
)
def test_snakemake_agrees_with_the_plan(
    project: Project, edits: list[tuple[str, str, str]], expected: dict[str, int]
) -> None:
    for edit in edits:
        project.edit(*edit)
    assert project.jobs() == project.stale() == expected


def test_moved_data_re_runs_nothing(project: Project) -> None:
    (project.folder / "resources/tiny-dream/rows.parquet").rename(project.folder / "elsewhere.parquet")
    project.edit(MICRO, "resources/tiny-dream/rows.parquet", "elsewhere.parquet")
    assert project.stale() == {}


def test_one_changed_row_re_runs_everything(project: Project) -> None:
    import polars as pl

    path = project.folder / "resources/tiny-dream/rows.parquet"
    rows = pl.read_parquet(path)
    rows[:-1].write_parquet(path)
    assert project.stale() == EVERYTHING


def test_deleted_upstream_is_made_only_for_what_is_new(project: Project) -> None:
    aside = project.folder / "aside"
    [shards] = (project.folder / "results/prepare_shards").iterdir()
    shards.rename(aside)
    try:
        assert project.jobs() == {}
        project.edit(MICRO, "experiments:\n  one: {}", "experiments:\n  one: {}\n  two: {train: {max_tail: 2}}")
        assert project.jobs() == {"prepare_shards": 1, **TRAINING, **TUNED, **REPORT}
    finally:
        aside.rename(shards)


def test_a_deleted_report_is_made_again(project: Project) -> None:
    [report] = (project.folder / "results/render_report").iterdir()
    aside = project.folder / "aside"
    report.rename(aside)
    try:
        assert project.jobs() == {"render_report": 1}
    finally:
        aside.rename(report)


def test_smoke_and_full_are_two_versions_even_with_equal_settings(project: Project) -> None:
    project.edit(MICRO, "full: {rows: 16, epochs: 1", "full: {rows: 8, epochs: 1")
    assert project.stale()["train_adapter"] == 1


def test_a_node_goes_by_the_frozen_config_whatever_became_of_the_configuration(project: Project) -> None:
    """On a cluster the Snakefile is parsed again when the job starts, and the configuration may be another by then."""
    project.edit(MICRO, "learning_rate: 1e-3", "learning_rate: 6e-3")
    project.snakemake("--until", "prepare_shards")  # freezes what is planned, and makes nothing new
    frozen = (project.folder / "results/train_adapter").glob("*/config.json")
    specs = [spec for spec in map(json.loads, (path.read_text() for path in frozen)) if _rate(spec) == 6e-3]
    [smoke] = [spec for spec in specs if spec["settings"]["run"] == "smoke"]
    project.edit(MICRO, "learning_rate: 6e-3", "learning_rat: half-saved")
    project.snakemake(
        *("--target-jobs", f"train_adapter:version={smoke['version']}", "--allowed-rules", "train_adapter"),
        *("--mode", "remote", "--force", "--nolock", "--ignore-incomplete"),
    )
    folder = project.folder / "results/train_adapter" / smoke["version"]
    assert _rate(json.loads((folder / "manifest.json").read_text())) == 6e-3


def _rate(spec: dict) -> float:
    return spec["settings"]["train"]["learning_rate"]


def test_learning_rate_and_back_executed(project: Project) -> None:
    before, versions = project.manifests(), project.folder / "results/latest/one/versions.json"
    first = versions.read_text()
    project.edit(MICRO, "learning_rate: 1e-3", "learning_rate: 2e-3")
    project.snakemake()
    made = {path.parent.parent.name for path in project.manifests().keys() - before.keys()}
    assert made == {"train_adapter", "evaluate_likelihood", "generate_answers", "score_answers", "render_report"}
    assert len(project.manifests()) == len(before) + 2 + 1 + 2 + 2 + 1
    assert versions.read_text() != first

    after = project.manifests()
    project.edit(MICRO, "learning_rate: 2e-3", "learning_rate: 1e-3")
    shutil.rmtree(project.folder / ".snakemake")  # the links must not depend on Snakemake's memory
    project.snakemake()
    assert versions.read_text() == first
    assert project.manifests() == after
    assert project.jobs() == {}


def test_an_edit_while_jobs_are_queued_files_nothing(project: Project) -> None:
    """The code of a stage changes between the plan and the job: the job stops and leaves nothing behind."""
    project.edit(MICRO, "learning_rate: 1e-3", "learning_rate: 3e-3")
    before = project.manifests()
    project.edit(
        "workflow/rules/train.smk", '"trap', '"echo EDITED = 1 >> src/dreamtune/objective/diffusion.py; trap'
    )  # the edit happens after the plan was made and before the script starts
    output = project.snakemake(fails=True)
    assert "the code changed since version" in output
    assert "Traceback" not in output
    assert "MissingOutputException" not in output, "a job that fails must not count as done"
    assert project.manifests() == before


def test_a_config_edit_while_jobs_are_queued_changes_nothing_for_them(project: Project) -> None:
    project.edit(MICRO, "learning_rate: 1e-3", "learning_rate: 4e-3")
    before, full = project.manifests(), project.plan()[1]["one"]["full"]
    project.edit("workflow/rules/train.smk", '"trap', f'"sed -i s/4e-3/5e-3/ {MICRO}; trap')
    project.snakemake(f"{full}/manifest.json")
    made = [json.loads(path.read_text()) for path in project.manifests().keys() - before.keys()]
    assert [_rate(spec) for spec in made if spec["stage"] == "train_adapter"] == [4e-3, 4e-3]


def test_bad_config_is_one_line(project: Project) -> None:
    project.edit(MICRO, "learning_rate:", "learning_rat:")
    output = project.snakemake(fails=True)
    assert "dreamtune: unknown key 'train.learning_rat' in the configuration; did you mean 'learning_rate'?" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_damaged_version_stops_what_reads_it_until_it_is_deleted(project: Project) -> None:
    scored = Path(project.published("one")["scores/test/greedy/tuned"])
    table = project.folder / scored / "scores.parquet"
    good = table.read_bytes()
    table.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    project.edit(MICRO, "examples: 5", "examples: 4")
    before = project.manifests()
    output = project.snakemake(fails=True)
    line = f"{table.relative_to(project.folder)} of version {scored.parent.name}/{scored.name} was changed"
    assert line in output and "Traceback" not in output and project.manifests() == before
    assert f"rm -r {scored}" in output
    shutil.rmtree(project.folder / scored)
    project.snakemake()
    assert len(project.manifests()) == len(before) + 1 and table.read_bytes() == good
