"""What is exported of a run and of a study, before any tracker."""

import json
from typing import Any

import pytest

from dreamtune.errors import UserError
from dreamtune.export.record import read_records
from tests.export.published import END, publish_run, publish_study
from tests.overview.studies import LATEST, Studies


def test_a_run_is_its_settings_curves_figures_and_verdict(summary: dict[str, Any]) -> None:
    links = publish_run("demo", summary, seed=7)
    [record] = read_records(LATEST, [])
    assert (record.name, record.kind, record.group) == ("demo", "run", "demo")
    assert record.id == f"demo-{links['report'].rpartition('/')[2]}"
    assert record.verdict == summary["verdict"] == "improved" and record.sentence == summary["sentence"]
    assert record.settings["train.lora.rank"] == 16 and record.settings["model.quantization"] == "nf4"
    assert record.settings["evaluate.comparison.alpha"] == 0.05 and "recipe.training_s" not in record.settings
    assert "recipe.host" not in record.settings, "which is no setting"
    gain = summary["accuracy"]["gain"]
    given = [record.figures[f"final/gain{ending}"] for ending in ("", "_low", "_high")]
    assert given == [gain["value"], gain["low"], gain["high"]] and record.figures["final/p"] == gain["p"]
    assert record.figures["final/nll_delta_low"] == summary["nll"]["delta"]["low"]
    assert record.figures["final/strict/tuned"] == summary["strict"]["tuned"]["value"]
    assert record.tags["seed"] == "7" and record.tags["commit"] == "abc"
    assert record.tags["report"] == f"{links['report']}/report.html" and record.tags["training"] == links["full"]
    assert [file.as_posix() for file in record.files] == [f"{links['report']}/summary.json"]
    assert record.finished == END and record.started == END - 60


def test_curves_have_real_steps_and_the_times_of_the_steps(summary: dict[str, Any]) -> None:
    publish_run("demo", summary)
    [record] = read_records(LATEST, [])
    found = {(point.name, point.step): (point.value, point.at) for point in record.curve}
    assert found["validation_nll", 0] == (4.0, END - 7) and found["loss", 5] == (2.0, END - 4)
    assert found["loss", 10] == (1.0, END) and found["validation_nll", 10] == (1.25, END)
    assert ("elbo", 5) not in found, "null is no value"
    assert not {name for name, _ in found} & {"step", "wall_s"}


def test_figures_of_an_invalid_run_do_not_stand_among_those_of_valid_ones(summary: dict[str, Any]) -> None:
    publish_run("copy", summary, verdict="invalid")
    [record] = read_records(LATEST, [])
    assert record.verdict == "invalid"
    assert record.figures and all(name.startswith("invalid/") for name in record.figures)


def test_seeds_are_a_group_and_the_study_follows_with_its_tables(studies: Studies) -> None:
    members = publish_study(studies, experiments={"a": {}, "b": {"train": {"warmup": 0.5}}}, seeds=2)
    *runs, study = read_records(LATEST, [])
    assert {run.name: run.group for run in runs} == {"a": "a", "a-seed1": "a", "b": "b", "b-seed1": "b"}
    assert {run.tags["seed"] for run in runs} == {"0", "1"}
    assert study.kind == study.name == "study" and members.study.endswith(study.version)
    content = json.loads((study.files[1]).read_text())
    row = content["comparisons"][0]
    assert study.figures[f"{row['comparison']}/gain"] == row["gain"]
    assert study.figures[f"{row['comparison']}/simultaneous_low"] == row["simultaneous_low"]
    assert row["sentence"] in study.tags.values() and study.sentence == content["rule"]
    assert [file.name for file in study.files] == ["members.json", "study.json", "study.csv", "study.parquet"]
    assert [record.name for record in read_records(LATEST, ["b"])] == ["b"], "of named runs only those"


def test_a_run_that_another_configuration_published_is_no_seed_of_the_study(studies: Studies) -> None:
    publish_study(studies, experiments={"a": {}}, seeds=2)
    publish_run("a-seed1", studies.summaries[0], seed=12)
    assert {run.name: run.group for run in read_records(LATEST, ["a", "a-seed1"])} == {"a": "a", "a-seed1": "a-seed1"}


@pytest.mark.parametrize("file", ["report/summary.json", "full/train_log.jsonl"])
def test_a_damaged_file_is_one_line(summary: dict[str, Any], file: str) -> None:
    publish_run("demo", summary)
    damaged = LATEST / "demo" / file
    damaged.write_text(damaged.read_text() + " ")
    with pytest.raises(UserError, match=rf"{damaged.name} of version .* instead of"):
        list(read_records(LATEST, []))


def test_a_run_that_is_not_there_is_one_line(summary: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="holds no published run; run snakemake first"):
        list(read_records(LATEST, []))
    publish_run("demo", summary)
    with pytest.raises(UserError, match="no published run 'demmo'; did you mean 'demo'"):
        list(read_records(LATEST, ["demmo"]))
