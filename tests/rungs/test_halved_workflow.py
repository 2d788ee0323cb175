"""Real Snakemake: a grid of four points is halved twice, in one call; what stopped stands in table and page."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.files import read_json
from project import MICRO, Project

pytestmark = pytest.mark.slow
EXPERIMENTS = "experiments:\n  one: {}\n"
GRID = """experiments:
  one: {}
  grid: {}
grid: {of: [grid], train.learning_rate: [1e-3, 1e-4, 2e-3, 1e-5]}
"""
HALVING = "study: {baseline: one, halving: {after: [0.5, 0.75]}}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A halved study after its first call of Snakemake."""
    project = Project(tmp_path_factory.mktemp("halved"))
    project.edit(MICRO, EXPERIMENTS, GRID + HALVING)
    project.edit(MICRO, "full: {rows: 16, epochs: 1", "full: {rows: 32, epochs: 1")  # four steps
    project.planned = project.snakemake("-n")
    project.said = project.snakemake()
    return project


def finished(project: Project, stage: str) -> list[dict[str, Any]]:
    return [read_json(path) for path in project.manifests() if path.parts[-3] == stage]


def full_runs(project: Project) -> list[Path]:
    found = [path.parent for path in project.manifests() if path.parts[-3] == "train_adapter"]
    return [folder for folder in found if read_json(folder / "manifest.json")["settings"]["run"] == "full"]


def test_the_worse_points_stop_and_the_call_succeeds(project: Project) -> None:
    trained = [one["settings"] for one in finished(project, "train_adapter")]
    runs = [(one["run"], one.get("rung", {}).get("until")) for one in trained]
    counts = {run: runs.count(run) for run in runs}
    assert counts == {("smoke", None): 4, ("rung", 0.5): 4, ("rung", 0.75): 2, ("full", None): 2}  # one shares a smoke
    assert len(finished(project, "halve")) == 2 and len(finished(project, "render_report")) == 2
    assert "Error" not in project.said and project.jobs() == {}
    assert "3 of 5 runs of the study ended without a report" in project.said
    assert project.said.count(": it was stopped early: place ") == 3


def test_a_dry_run_counts_what_follows_the_decisions(project: Project) -> None:
    made = len(project.manifests()) + 2  # versions, and two publications
    assert f"5 runs: {made} jobs" in project.planned
    assert "halving lets go on of the 4 points of grid 2 after 50 %, 1 after 75 % of the steps" in project.planned


def test_table_page_and_study_say_which_points_stopped_when_and_why(project: Project) -> None:
    table = pl.read_csv(project.folder / "results/latest/study.csv")
    stands = dict(table.select("run", "stand").iter_rows())
    assert sorted(stands.values()) == ["ended"] * 3 + ["finished"] * 2
    [study] = [path.parent for path in project.manifests() if path.parts[-3] == "study"]
    content = read_json(study / "study.json")
    stopped = {one["name"]: one["reason"] for one in content["ended"]}
    assert stopped.keys() == {run for run, stand in stands.items() if stand == "ended"}
    assert [reason.partition(" by ")[0] for reason in sorted(stopped.values())] == [
        "place 2 of 2",
        "place 3 of 4",
        "place 4 of 4",
    ]
    page = (project.folder / "results/latest/index.html").read_text()
    for reason in stopped.values():
        assert reason in page
    [grid] = content["grids"]
    assert not grid["effects"] and "halving stopped 3 of 4 runs" in grid["refusal"]


def test_another_point_trains_its_own_rungs_and_nothing_again(project: Project) -> None:
    before = project.jobs()
    project.edit(MICRO, "1e-5]", "1e-5, 3e-3]")
    assert before == {} and project.jobs() == {"train_adapter": 2, "halve": 2, "study": 1}
    project.edit(MICRO, "1e-5, 3e-3]", "1e-5]")


def test_the_winner_is_the_one_of_an_uncut_training(project: Project) -> None:
    """Without halving its version is the same, so it is deleted, and trained in one go: the same adapter to the bit."""
    [full] = [folder for folder in full_runs(project) if read_json(folder / "training.json")["resumed_from"]]
    kept = (full / "adapter/adapter_model.safetensors").read_bytes()
    shutil.rmtree(full)
    project.edit(MICRO, HALVING, "study: {baseline: one}\n")
    project.snakemake(f"results/train_adapter/{full.name}/manifest.json")
    assert read_json(full / "training.json")["resumed_from"] == []
    assert (full / "adapter/adapter_model.safetensors").read_bytes() == kept
