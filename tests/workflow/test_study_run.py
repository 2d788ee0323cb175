"""A study that chooses on validation answers, in real jobs: the winner alone is confirmed on the test questions."""

import html
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from conftest import ROOT
from project import Project

pytestmark = pytest.mark.slow
# config/study.yaml without data sizes, with one run or two of each other part, a third of the steps, short likelihoods.
# `tune` has the rate at which the embedded model learns within these steps, the others one at which it hardly does.
CHANGES: dict[str, dict[str, Any]] = {
    "train": {"epochs": 1, "learning_rate": 1e-5},
    "evaluate": {"likelihood": {"draws": 1, "max_rows": 32}, "resamples": 2000},
    "smoke": {"rows": 8},
    "seeds": {"of": ["full"], "count": 2},
    "study": {"choose": "validation", "equivalence_points": 3.0},
}
CHOSEN = "tune-rank4-lr4e-3"


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which the study has run."""
    project = Project(tmp_path_factory.mktemp("study"), "study.yaml")
    project.longest_s = 1500  # to end one that hangs, also on a busy machine
    raw = yaml.safe_load((ROOT / "config/study.yaml").read_text())
    for section, changes in CHANGES.items():
        raw[section] = raw.get(section, {}) | changes
    del raw["data_sizes"]
    raw["experiments"] = {name: raw["experiments"][name] for name in ("qlora", "full", "copy", "tune")}
    raw["experiments"]["full"]["train"]["learning_rate"] = 1e-6
    raw["grid"] = {"of": ["tune"], "train.lora.rank": [4], "train.learning_rate": [4e-3]}
    (project.folder / "study.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    project.said = project.snakemake()
    return project


@pytest.fixture(scope="module")
def stages(project: Project) -> dict[str, Path]:
    """The version folder of each stage of which there is one."""
    members = read(project.folder / "results/latest", "members.json")
    return {stage: project.folder / members[stage] for stage in ("study", "confirm")}


def test_the_winner_is_chosen_on_validation_answers(project: Project, stages: dict[str, Path]) -> None:
    confirm = read(stages["confirm"], "confirm.json")
    choice = confirm["choice"]
    assert (choice["winner"], choice["split"]) == (CHOSEN, "validation") and choice["questions"] >= 200
    assert choice["means"].keys() == {"qlora", "full", CHOSEN}, "copy is no candidate"
    assert confirm["left_out"].keys() == {"copy"}
    for name in ("qlora", CHOSEN):
        folder = project.folder / project.published(name)["scores/validation/greedy/tuned"]
        scores = pl.read_parquet(folder / "scores.parquet")
        assert scores["correct"].mean() == pytest.approx(choice["means"][name]), "its validation answers and no others"


def test_its_gain_is_that_of_its_test_answers(project: Project, stages: dict[str, Path]) -> None:
    found = read(stages["confirm"], "confirm.json")["comparison"]
    accuracy = read(project.folder / "results/latest" / CHOSEN, "summary.json")["accuracy"]
    assert found["gain"] == pytest.approx(accuracy["gain"]["value"]) and found["questions"] == accuracy["base"]["n"]
    assert found["p_adjusted"] == found["p"], "one comparison, chosen on other questions"
    assert read(stages["study"], "study.json")["choice"] is None, "nothing is chosen on test questions"


def test_the_page_says_so(project: Project, stages: dict[str, Path]) -> None:
    page = html.unescape((project.folder / "results/latest/index.html").read_text())
    confirm = read(stages["confirm"], "confirm.json")
    assert confirm["label"] in page and confirm["comparison"]["sentence"] in page


def test_another_rule_of_choice_makes_the_comparisons_alone(project: Project) -> None:
    assert project.jobs() == {}
    project.edit("study.yaml", "equivalence_points: 3.0", "equivalence_points: 2.0")
    assert project.jobs() == {"study": 1, "confirm": 1}
    project.edit("study.yaml", "choose: validation", "choose: test")
    jobs = project.jobs()
    assert jobs["study"] == 1 and jobs.keys() <= {"study", "publish"}, "the links to validation answers go"
