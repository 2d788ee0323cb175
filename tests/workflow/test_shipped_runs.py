"""Every configuration that ships runs to its report, on tiny stand-ins for its model and its rows.

config/demo.yaml runs as it is, in `make demo`; all others are planned on the same stand-ins by test_shipped_configs.py.
"""

import json
from typing import Any

import jsonschema
import polars as pl
import pytest
import yaml

from conftest import ROOT
from dreamtune.model import load_model
from project import Project
from test_shipped_configs import stand_ins

pytestmark = pytest.mark.slow
CONFIG = "stand-in.yaml"
SCHEMA = json.loads((ROOT / "docs/summary.schema.json").read_text())
METHODS = {
    "config": "QLoRA: an adapter on 4-bit weights, rank 16",
    "llada": "QLoRA: an adapter on 4-bit weights, rank 16",
    "notebook": "QLoRA: an adapter on 4-bit weights, rank 16",
    "qwen2-causal": "QLoRA: an adapter on 4-bit weights, rank 16",
    "qwen2-diffusion": "rsLoRA: an adapter on 4-bit weights, rank 128",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which all configurations run, one after the other."""
    project = Project(tmp_path_factory.mktemp("shipped"), CONFIG)
    project.longest_s = 1500  # to end one that hangs, also on a busy machine
    return project


def tiny(project: Project, name: str, rows: int, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return a shipped configuration that takes a CPU seconds: a tiny model, the first `rows` rows, short answers.

    Args:
        sections: further changes of sections.
    """
    raw = stand_ins(name, project.folder / "models" / name)
    pl.read_parquet(raw["data"]["files"][0])[:rows].write_parquet(project.folder / "rows.parquet")
    given = {
        "model": {"device": "cpu", "dtype": "float32", "threads": 1},
        "data": {"files": ["rows.parquet"], "max_tokens": 64},
        "smoke": {"rows": 8},
        "generate": {"max_new_tokens": 32},
    }
    for section, changes in [*given.items(), *sections.items()]:
        raw[section] = raw.get(section, {}) | changes
    return raw


def run(project: Project, raw: dict[str, Any], *targets: str) -> dict[str, dict[str, Any]]:
    """Run a configuration; return the published summary of each experiment."""
    (project.folder / CONFIG).write_text(yaml.safe_dump(raw, sort_keys=False))
    project.said = project.snakemake(*targets)
    summaries = (project.folder / "results/latest").glob("*/summary.json")
    return {path.parent.name: json.loads(path.read_text()) for path in summaries}


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_of_one_experiment_runs_to_its_report_and_its_merge(project: Project, name: str) -> None:
    raw = tiny(project, name, 160, full={"rows": 16, "epochs": 1})
    [experiment] = raw["experiments"]
    summary = run(project, raw, "all", "merge")[experiment]
    jsonschema.validate(summary, SCHEMA)
    assert f"{experiment}: {summary['sentence']}\n" in project.said
    assert (summary["verdict"] == "invalid") == (name == "notebook"), summary["sentence"]
    assert summary["nll"]["kind"] == ("exact" if name == "qwen2-causal" else "bound")
    assert summary["training"]["steps"] == 2 and summary["accuracy"]["tuned"]["n"] > 8
    assert not [text for text in summary["warnings"] if "left to right" in text]
    latest = project.folder / "results/latest" / experiment
    page, card = (latest / "report.html").read_text(), (latest / "adapter/README.md").read_text()
    assert METHODS[name] in page and list((latest / "lm-eval/tuned").iterdir())
    assert ("order entropy" in page) == (name != "qwen2-causal"), "which has no settings of denoising"
    assert ("An rsLoRA adapter of" in card) == (name == "qwen2-diffusion")
    full = json.loads((latest / "versions.json").read_text())["full"]
    manifests = (json.loads(path.read_text()) for path in project.folder.glob("results/merge_adapter/*/manifest.json"))
    [merge] = [spec for spec in manifests if spec["reads"]["full"] == full]
    folder = project.folder / "results/merge_adapter" / merge["version"]
    load_model(str(folder / "merged"), dtype="float32")
    nll = json.loads((folder / "merge.json").read_text())["nll"]
    assert nll["merged"] == pytest.approx(nll["evaluated"], rel=0.05), "4-bit weights there, the base's own here"


def test_scaling_runs_every_method_to_a_study_and_its_page(project: Project) -> None:
    raw = tiny(project, "scaling", 100, train={"epochs": 1})
    raw["data"]["split"]["test"] = 0.3
    raw |= {
        "seeds": 1,
        "data_sizes": {"of": ["qlora"], "rows": [16, "all"], "equal": "steps"},
        "grid": {"of": ["tune"], "train.lora.rank": [4], "train.learning_rate": [2e-4]},
    }
    summaries = run(project, raw)
    methods = {"qlora", "qlora-rows16", "lora", "dora", "full", "notebook", "tune-rank4-lr2e-4"}
    assert methods <= summaries.keys()
    assert {name for name in methods if summaries[name]["verdict"] == "invalid"} == {"notebook"}
    steps = {summaries[name]["training"]["steps"] for name in methods}
    assert len(steps) == 1, "at equal steps"
    [folder] = (project.folder / "results/study").iterdir()
    study = json.loads((folder / "study.json").read_text())
    assert study["baseline"] == "full" and study["methods"].keys() == methods
    assert study["family"][:2] == ["qlora against the base", "qlora against full"], study["family"]
    assert study["methods"]["notebook"]["invalid"], "said with its reason"
    assert study["curves"].keys() == {"qlora"}
    page = (project.folder / "results/latest/index.html").read_text()
    for name in methods:
        assert f"{name}/report.html" in page
