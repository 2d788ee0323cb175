"""Real Snakemake: a run that fails its gate ends, and the study of the others is made in the same call."""

import json
from pathlib import Path

import polars as pl
import pytest

from project import MICRO, Project

EXPERIMENTS = "experiments:\n  one: {}\n"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study of two runs, one of which fails its gate, after its first call of Snakemake."""
    project = Project(tmp_path_factory.mktemp("study"))
    more = "  copies: {train: {objective: copy}}\nstudy: {baseline: one}\n"
    project.edit(MICRO, EXPERIMENTS, EXPERIMENTS + more)
    project.said = project.snakemake(fails=True)
    return project


def study_of(project: Project) -> Path:
    [folder] = [path.parent for path in (project.folder / "results/study").glob("*/manifest.json")]
    return folder


def test_the_first_call_makes_the_study_and_says_which_run_ended(project: Project) -> None:
    assert "1 of 2 runs of the study ended without a report, and count as no evidence" in project.said
    assert "  copies: its smoke run failed its gate: targets_hidden" in project.said
    assert f"the study of the other run is in results/study/{study_of(project).name}" in project.said
    [noted] = (project.folder / "results/train_adapter").glob("*/failure.json")
    assert json.loads(noted.read_text())["reason"].startswith("the smoke run failed its gate: targets_hidden")
    content = json.loads((study_of(project) / "study.json").read_text())
    assert [(one["name"], one["by"]) for one in content["ended"]] == [("copies", "gate")]
    words = dict(pl.read_parquet(study_of(project) / "study.parquet").select("comparison", "word").iter_rows())
    assert words["copies against the base"] == words["copies against one"] == "not tested"


def test_the_page_shows_it_as_ended(project: Project) -> None:
    table = pl.read_csv(project.folder / "results/latest/study.csv")
    assert dict(table.select("run", "stand").iter_rows()) == {"one": "finished", "copies": "ended"}


def test_the_next_call_has_nothing_to_do_and_says_why_a_run_is_missing(project: Project) -> None:
    before = project.manifests()
    assert project.jobs() == {}
    said = project.snakemake()
    assert "Nothing to be done" in said and "  copies: its smoke run failed its gate" in said
    assert project.manifests() == before


def test_a_changed_setting_plans_the_run_again(project: Project) -> None:
    project.edit(MICRO, "objective: copy", "objective: cart")
    jobs = project.jobs()
    assert (jobs["train_adapter"], jobs["render_report"], jobs["publish"], jobs["study"]) == (2, 1, 1, 1)
