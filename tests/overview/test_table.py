"""The table of a study's runs: only what differs, the best first, and those that have no numbers with their reason."""

import csv
import json
import re
from pathlib import Path

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.overview.cells import shown_settings
from dreamtune.overview.curves import APART, validation_picture
from dreamtune.overview.members import Members, members_of, read_members
from dreamtune.overview.page import write_page
from dreamtune.overview.pareto import Spot, front, spots_of
from dreamtune.overview.states import state_of, why_unfinished
from dreamtune.overview.table import rows_of
from dreamtune.study.ended import Ended
from tests.overview.studies import LATEST, LEAST, STUDY, Studies

FULL = {"model": {"quantization": "none"}, "train": {"finetuning": "full", "learning_rate": 2e-6}}
THREE = {"experiments": {"qlora": {}, "full": FULL, "tune": {}}, "seeds": {"of": ["qlora", "full"], "count": 3}}
THREE |= {"grid": {"of": ["tune"], "train.lora.rank": [4, 64]}, "study": {"baseline": "full"}}


def members(**keys: object) -> Members:
    """Return the members of a configuration, of which nothing has run."""
    config = parse_config(LEAST | keys)
    return members_of(config, {name: {"report": Path("results/r") / name} for name in config.experiments}, [STUDY])


def html() -> str:
    write_page(LATEST, {})
    return (LATEST / "index.html").read_text()


def names(page: str) -> list[str]:
    """Return the runs of the page's table, in order."""
    return re.findall(r'<th scope="row" data-s="([^"]*)">', page)


def test_only_settings_that_differ_have_a_column() -> None:
    study = members(**THREE)
    assert study.settings == ["train.lora.rank", "train.finetuning", "train.learning_rate", "model.quantization"]
    assert study.runs[0].settings["train.lora.rank"] == 16
    assert [run.settings["train.lora.rank"] for run in study.runs if run.experiment == "full"] == [None] * 3
    shown, left = shown_settings(study)
    assert shown == ["train.lora.rank", "train.finetuning"], "lr and quantization change with finetuning"
    assert left[1] == "model.quantization (changes with finetuning)"


def test_a_data_size_is_one_column_and_a_seed_none_of_the_settings() -> None:
    study = members(data_sizes=[10, 20, "all"], seeds=2)
    assert study.settings == [] and {run.data_size for run in study.runs} == {10, 20, None}


def test_the_plan_is_read_as_it_was_written(studies: Studies) -> None:
    study = studies.make(compared=False, **THREE)
    assert read_members(LATEST) == study
    (LATEST / "members.json").write_text('{"format": 0}')
    assert read_members(LATEST) is None


def test_the_best_run_stands_first_and_the_methods_tests_beside_it(studies: Studies) -> None:
    kinds = {"qlora": 4, "qlora-seed1": 5, "qlora-seed2": 6, "full": 3, "full-seed1": 2, "full-seed2": 3}
    studies.make(kinds | {"tune-rank4": 1, "tune-rank64": 0}, **THREE)
    page = html()
    assert names(page)[:3] == ["qlora-seed2", "qlora-seed1", "qlora"] and names(page)[-1] == "tune-rank64"
    assert "qlora (3 seeds) against full (3 seeds)" in page and "The best one." in page
    table = pl.read_parquet(LATEST / "study.parquet")
    assert table["run"].to_list() == names(page)
    best = table.row(0, named=True)
    content = json.loads((STUDY / "study.json").read_text())
    [judged] = [row for row in content["comparisons"] if row["comparison"] == "qlora against full"]
    assert best["method_gain_baseline"] == judged["gain"] and best["method_p_adjusted_baseline"] == judged["p_adjusted"]
    assert best["accuracy"] == pytest.approx(0.74) and best["training_minutes"] > 0 and best["tokens_per_s"] > 0
    with (LATEST / "study.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == names(page)


def test_runs_without_numbers_stand_last_with_their_reason(studies: Studies) -> None:
    study = studies.make(compared=False, **THREE)
    by_name = {run.name: run for run in study.runs}
    logs = {"qlora": "step 1\ntrain_adapter: the disk is <full>\n", "full": "step 1\n", "tune-rank4": ""}
    for name, log in logs.items():
        for folder in ("report", "full"):
            (Path(by_name[name].folders[folder]) / "manifest.json").unlink()
        if log:
            (Path(by_name[name].folders["full"]) / "job.log").write_text(log)
    invalid = Path(by_name["tune-rank64"].folders["report"]) / "summary.json"
    content = json.loads(invalid.read_text())
    invalid.write_text(json.dumps(content | {"verdict": "invalid", "detail": "1 of 4 hard canaries failed"}))
    said = {state.member.name: (state.stand, state.reason) for state in (state_of(run, {}) for run in study.runs)}
    assert said["qlora"] == ("failed", "full: the disk is <full>")
    assert said["full"] == ("unfinished", "full began and has not ended")
    assert said["tune-rank4"] == ("not run", "waits for full")
    assert said["tune-rank64"] == ("invalid", "1 of 4 hard canaries failed")
    page = html()
    assert names(page)[-4:] == ["tune-rank64", "qlora", "full", "tune-rank4"]
    assert "4 finished, 1 invalid, 1 failed, 1 unfinished, 1 not run" in page
    assert "the disk is &lt;full&gt;" in page and "once all runs are finished: 3 runs are not" in page


def test_an_ended_run_stands_there_with_its_reason_and_its_method_with_what_it_lost(studies: Studies) -> None:
    ended = [Ended("qlora-seed1", "gate", "targets_hidden (7; expected 0)"), Ended("tune-rank4", "failure", "nan")]
    studies.make({"qlora": 6, "qlora-seed2": 6}, ended=ended, **THREE)
    page = html()
    assert names(page)[-2:] == ["qlora-seed1", "tune-rank4"]
    assert "6 finished, 2 ended" in page and "its smoke run failed its gate: targets_hidden (7; expected 0)" in page
    assert "these 2 runs of qlora (2 of 3 seeds; 1 failed its gate) against the base model: <span" in page
    assert "1 not tested, since a run of theirs is invalid, none finished" in page
    rows = {row["run"]: row for row in csv.DictReader((LATEST / "study.csv").open())}
    assert (rows["tune-rank4"]["stand"], rows["tune-rank4"]["reason"]) == ("ended", "it failed: nan")
    assert rows["tune-rank4"]["method_gain"] == "" and rows["tune-rank4"]["accuracy"] == ""


def test_the_last_words_of_a_part_that_failed_are_the_reason(tmp_path: Path) -> None:
    part = tmp_path / "evaluate_likelihood/0123456789ab/parts/ba9876543210/2-of-3"
    part.mkdir(parents=True)
    (part / "job.log").write_text("evaluate_likelihood: there is no room\n")
    assert why_unfinished({"likelihood": part.parents[2]}) == ("failed", "likelihood: there is no room")


def test_a_damaged_report_is_a_failed_run(studies: Studies) -> None:
    study = studies.make(compared=False, experiments={"a": {}, "b": {}}, seeds=2)
    (Path(study.runs[0].folders["report"]) / "summary.json").write_text("{")
    states = [state_of(run, {"a-seed1": "its report was changed"}) for run in study.runs]
    assert [state.stand for state in states] == ["failed", "failed", "finished", "finished"]
    assert (states[0].reason, states[1].reason) == (
        "summary.json cannot be read (JSONDecodeError)",
        "its report was changed",
    )


def test_the_front_is_what_nothing_beats() -> None:
    spots = [Spot("cheap", 0.2, 1, 1), Spot("worse", 0.2, 2, 1), Spot("good", 0.6, 5, 1), Spot("dear", 0.6, 9, 1)]
    assert [spot.method for spot in front(spots)] == ["cheap", "good"]
    assert front([]) == []


def test_only_valid_runs_of_one_device_are_compared_by_cost(studies: Studies) -> None:
    study = studies.make(**THREE)
    rows = rows_of(study, [state_of(run, {}) for run in study.runs], {}, LATEST)
    rows[0]["stand"], rows[1]["device"] = "invalid", "cpu"
    spots, device = spots_of(rows, "accuracy")
    assert device == "GPU" and sum(spot.runs for spot in spots) == len(rows) - 2


def test_base_and_benchmarks_stand_beside_the_runs_accuracy(studies: Studies) -> None:
    """Also with worked examples; a run that was not asked the benchmark has a dash."""
    studies.make({"causal": 2, "diffusion": 3}, experiments={"causal": {}, "diffusion": {}})
    path = Path("results/render_report/causal/summary.json")
    summary = json.loads(path.read_text())
    accuracy = {"base": {"value": 0.125}, "tuned": {"value": 0.25, "low": 0.21, "high": 0.29}}
    few_shot = {"accuracy": {"base": {"value": 0.1875}}}
    asked = {"accuracy": accuracy, "few_shot": few_shot}
    summary["comparisons"] |= {
        "gsm8k/greedy": asked,
        "gsm8k/canvas-96": asked,
        "other/greedy": asked | {"few_shot": None},
    }
    path.write_text(json.dumps(summary | {"few_shot": {"accuracy": {"base": {"value": 0.0625}}}}))
    page = html()
    [row] = re.findall(r'data-s="causal">.*?</tr>', page, re.DOTALL)
    cells = [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row.split("</th>")[1].split("</td>")]
    assert cells[1] == "12.0 % few-shot 6.2 %"
    assert cells[2] == "25.0 % 21.0 % to 29.0 % base 12.5 % few-shot 18.8 %"
    assert cells[3] == "25.0 % 21.0 % to 29.0 % base 12.5 %"
    table = pl.read_parquet(LATEST / "study.parquet").sort("run")
    assert table["benchmark_gsm8k_accuracy"].to_list() == [0.25, None]
    assert table["benchmark_gsm8k_few_shot_base"].to_list() == [0.1875, None]
    assert table["benchmark_other_few_shot_base"].to_list() == [None, None]
    assert table["few_shot_base"].to_list() == [0.0625, None]
    assert not [name for name in table.columns if "canvas" in name]


def test_a_bound_and_an_exact_likelihood_have_columns_of_their_own(studies: Studies) -> None:
    """A column can be sorted by, and between the two there is no order."""
    studies.make({"causal": 2, "diffusion": 3}, experiments={"causal": {}, "diffusion": {}})
    assert "Held-out NLL" in html() and "Held-out NLL, bound" not in html()
    path = Path("results/render_report/causal/summary.json")
    summary = json.loads(path.read_text())
    summary["nll"] |= {"kind": "exact"}
    path.write_text(json.dumps(summary))
    page = html()
    headings = re.findall(r"Held-out NLL, \w+", page)
    assert headings == ["Held-out NLL, bound", "Held-out NLL, exact"]
    states = [state_of(member, {}) for member in read_members(LATEST).runs]
    logs = Path("results/train_adapter").glob("*/train_log.jsonl")
    for log in logs:
        log.write_text("\n".join(json.dumps({"step": step, "validation_nll": 2.0 / step}) for step in (1, 2, 3)))
    picture = validation_picture(states, ["causal", "diffusion"])
    assert picture is not None and APART in picture.caption
    picture = validation_picture(states[:1], ["causal"])
    assert picture is not None and APART not in picture.caption


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_bases_that_answer_in_different_ways_are_named(studies: Studies, attention: str) -> None:
    """A causal checkpoint that is asked to fill in masks is right nowhere, and everything gains over it."""
    other = {"model": {"attention": attention}, "train": {"max_tail": 0}}
    studies.make({"diffusion": 2, "other": 3}, experiments={"diffusion": {}, "other": other})
    assert ("The base model is asked as each run is" in html()) == (attention == "causal")
