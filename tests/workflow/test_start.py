"""What is refused when Snakemake starts, before there is a graph of jobs: one line each, in a dry run too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from conftest import ROOT
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.inputs import rows as inputs
from dreamtune.workflow import start
from dreamtune.workflow.columns import check_columns, hub_columns
from dreamtune.workflow.experiments import READ_FILES, make_plan
from project import MICRO, Project
from rows import write_model

OUTPUT = "results/prepare_shards/0123456789ab/manifest.json"


def test_rules_fetched_from_elsewhere_are_those_of_the_package(tmp_path: Path) -> None:
    rules = ROOT / "workflow/rules"
    start.check_rules(str(rules), pytest.fail)
    (tmp_path / "link").symlink_to(rules)
    start.check_rules(str(tmp_path / "link"), pytest.fail)
    address = "git+file:///elsewhere/workflow/rules@v1"
    start.check_rules(address, lambda name: (rules / name).read_text().rstrip())
    edited = lambda name: (rules / name).read_text() + "#" * (name == "common.smk")  # noqa: E731
    with pytest.raises(UserError, match=r"^git\+file:///elsewhere/.*@v1/common\.smk is not .*; install the package of"):
        start.check_rules(address, edited)
    with pytest.raises(UserError, match=r"@v1/common\.smk is not that of the package"):
        start.check_rules(address, lambda name: {}[name])


def test_a_prefix_that_moves_the_results_is_refused() -> None:
    start.check_prefix(lambda path: path)
    with pytest.raises(UserError, match=r"prefix turns results/report into mine/results/report.*--directory FOLDER"):
        start.check_prefix(lambda path: f"mine/{path}")


@pytest.mark.parametrize(
    ("gpu", "offered", "device", "count", "said"),
    [
        (True, None, "auto", 2, True),
        (True, None, "auto", 1, False),
        (True, 1, "auto", 2, False),
        (True, None, "cpu", 2, False),
        (False, None, "auto", 2, False),
    ],
)
def test_jobs_that_may_share_a_gpu_are_said(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, offered: int | None, device: str, count: int, said: bool
) -> None:
    monkeypatch.setattr(start, "has_gpu", lambda: gpu)
    specs = [{"stage": "generate_answers", "runtime": {"model": {"device": device}}}] * count
    line = start.shared_gpus([*specs, {"stage": "score_answers", "runtime": {}}], offered)
    assert (line is not None) == said


def test_each_configuration_that_snakemake_loads_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("train: {}\n")
    Path("bad.yaml").write_text("train: {}\ntrain: {}\n")
    start.check_files(["good.yaml", tmp_path / "good.yaml"])
    with pytest.raises(UserError, match=r"^bad\.yaml: train is given twice, in line 1 and in line 2"):
        start.check_files([tmp_path / "good.yaml", tmp_path / "bad.yaml"])
    with pytest.raises(UserError, match=f"^{OUTPUT} stands behind --configfile"):
        start.check_files([tmp_path / "good.yaml", tmp_path / OUTPUT])
    assert start.named([tmp_path / "a.yaml", "/etc/b.yaml"]) == "a.yaml /etc/b.yaml"


def test_a_finished_target_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert start.finished_targets([OUTPUT]) == []
    Path(OUTPUT).parent.mkdir(parents=True)
    Path(OUTPUT).write_text("{}")
    arguments = ["--cores", "1", OUTPUT, "all"]
    assert start.finished_targets(arguments) == [OUTPUT]
    with pytest.raises(SystemExit) as end:
        start.stop_at_finished(arguments, [OUTPUT])
    assert end.value.code == 0 and capsys.readouterr().err.startswith(f"dreamtune: {OUTPUT} is finished, nothing to be")
    with pytest.raises(SystemExit, match=r"is finished already; leave it out, and name only all$"):
        start.stop_at_finished(arguments, [OUTPUT, "all"])


@pytest.mark.parametrize(
    ("model", "train", "settings", "said"),
    [
        ("auto", {}, {}, None),
        ("cuda", {}, {}, "model.device is cuda"),
        ("auto", {"memory_gib": 11.0}, {}, "train.memory_gib is 11, as in a preset for a GPU"),
        ("auto", {}, {"optimizer": "paged_adamw_8bit"}, "train.optimizer is paged_adamw_8bit"),
        ("cpu", {"memory_gib": 11.0}, {}, None),
    ],
)
def test_what_needs_a_gpu_is_said_where_there_is_none(
    model: str, train: dict[str, Any], settings: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"stage": "train_adapter", "runtime": {"model": {"device": model}, "train": train}}
    spec |= {"settings": {"train": settings}}
    files = [spec | {"stage": stage} for stage in ("prepare_shards", "audit_contamination", "render_report")]
    monkeypatch.setattr(start, "DRIVERS", ())
    line = start.missing_gpu([*files, spec])
    assert (
        line is None if said is None else line is not None and line.startswith(f"{said}, and this machine has no GPU")
    )
    assert start.missing_gpu(files) is None, "a report can be made again without the GPU of its training"
    monkeypatch.setattr(start, "DRIVERS", ("/dev/null",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert start.missing_gpu([spec]) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (start.missing_gpu([spec]) is None) == (said is None)


def test_a_driver_on_the_cluster_is_asked_for_no_gpu_and_one_on_this_machine_is(tmp_path: Path) -> None:
    """Through Snakemake, once: the dry run says it, and the run stops before its first job, unless none needs a GPU."""
    project = Project(tmp_path)
    project.edit("src/dreamtune/workflow/start.py", "DRIVERS = (", "DRIVERS = () and (")
    project.edit(MICRO, "device: cpu", "device: cuda")
    line = "model.device is cuda, and this machine has no GPU"
    planned = project.snakemake("-n")
    assert line in planned
    cost = (
        "dreamtune: 1 run: 15 jobs, 7 of which run the model; how many GPU minutes they take is unknown before a smoke"
    )
    assert f"\n{cost} run\n" in planned
    assert line not in project.snakemake("-n", "--jobs", "1"), "as with an executor that submits jobs"
    said = project.snakemake(fails=True).splitlines()
    assert f"dreamtune: {line}" in said[-1] and not list(tmp_path.glob("results/*/*"))
    (tmp_path / MICRO).write_text((tmp_path / MICRO).read_text() + "model: {path: x}\n")
    assert f"dreamtune: {MICRO}: model is given twice, in line 2 and in line " in project.snakemake("-n", fails=True)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["?"], "reasoning": [""], "answer": ["1"], "list": [[1]]}).write_parquet("rows.parquet")
    return {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"question": "questoin"}}, "no column 'questoin' (did you mean 'question'?)"),
        ({"columns": {"cluster": "family"}}, "no column 'family'; its columns are: question, reasoning, answer, list"),
        ({"columns": {"answer": "list"}}, "column 'list' of rows.parquet holds"),
    ],
)
def test_the_plan_knows_the_columns(planned: dict[str, Any], change: dict[str, Any], message: str) -> None:
    make_plan(parse_config(planned))
    with pytest.raises(UserError) as error:
        make_plan(parse_config(planned | {"data": planned["data"] | change}))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_plan_knows_the_columns_of_benchmarks(planned: dict[str, Any]) -> None:
    benchmark = {"name": "b", "files": ["rows.parquet"], "answer": "solution"}
    with pytest.raises(UserError, match=r"rows\.parquet has no column 'solution'"):
        make_plan(parse_config(planned | {"evaluate": {"benchmarks": [benchmark]}}))


def test_a_file_is_opened_once_for_many_experiments_and_never_for_finished_versions(
    planned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = inputs.open_rows
    monkeypatch.setattr(
        inputs, "open_rows", lambda files, *rest, **more: [opened.extend(files), real(files, *rest, **more)]
    )
    many = planned | {"experiments": {f"max-{n}": {"data": {"max_tokens": n}} for n in range(64, 90)}}
    plan, _ = make_plan(parse_config(many))
    assert opened == [Path("rows.parquet")]
    for stage, version in plan:
        folder = Path("results") / stage / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    assert plan.todo(READ_FILES) == []
    check_columns(plan.todo(READ_FILES))
    assert len(opened) == 1


def test_hub_files_are_left_to_their_download() -> None:
    file = f"hf://datasets/me/sums@{'0' * 40}/train.parquet"
    columns = {"question": "q", "reasoning": None, "answer": "a", "cluster": None}
    data = {"columns": columns, "template": "{question}{answer}"}
    spec = {"settings": {"data": data}, "runtime": {"data": {"files": [file, "missing.parquet"]}}}
    assert hub_columns([spec, spec]) == [(file, "q"), (file, "a")]
    check_columns([{**spec, "runtime": {"data": {"files": [file]}}}])


def test_job_arrays_are_refused() -> None:
    start.check_arrays(None)  # the settings of the local executor
    start.check_arrays(SimpleNamespace(array_jobs=None))
    with pytest.raises(UserError, match=r"slurm-array-jobs is 'all', .* deletes finished parts .*leave it out"):
        start.check_arrays(SimpleNamespace(array_jobs="all"))
