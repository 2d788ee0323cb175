"""Grids, seeds and data sizes of a configuration: which runs they make, under which names, and what is refused."""

from typing import Any

import pytest
import yaml

from dreamtune.config import Config, parse_config
from dreamtune.study.expand import TooManyRuns
from dreamtune.study.points import by_curve, by_method

LEAST = "model: {path: x}\ndata: {files: [rows.parquet]}\n"
THREE = """\
experiments:
  qlora: {}
  full: {model: {quantization: none}, train: {finetuning: full, learning_rate: 2e-6}}
  notebook: {train: {objective: copy, on_failed_gate: continue}}
"""
CUBE = """\
grid:
  train.lora.rank: [4, 16, 64]
  train.learning_rate: [1e-5, 1e-4, 1e-3]
  train.epochs: [1, 3, 9]
seeds: 3
"""


def config(text: str, **more: Any) -> Config:
    return parse_config(yaml.safe_load(LEAST + text) | more)


def test_a_cube_with_three_seeds_takes_five_lines() -> None:
    assert CUBE.count("\n") <= 8
    made = config(CUBE)
    assert len(made.experiments) == 81
    assert list(made.experiments)[:2] == ["main-rank4-lr1e-5-epochs1", "main-rank4-lr1e-5-epochs1-seed1"]
    last = made.experiments["main-rank64-lr1e-3-epochs9-seed2"].train
    assert (last.lora.rank, last.learning_rate, last.epochs, last.seed) == (64, 1e-3, 9, 2)
    assert len(by_method(made.points.values())) == 27
    assert {len(replicates) for replicates in by_method(made.points.values()).values()} == {3}


def test_the_study_of_the_documentation() -> None:
    grid = {"of": ["qlora"], "train.lora.rank": [4, 16], "train.learning_rate": ["1e-5", 1e-4]}
    made = config(THREE, grid=grid, seeds={"of": ["qlora", "full"], "count": 3}, data_sizes=[250, "all"])
    assert len(made.experiments) == 2 * (4 * 3 + 3 + 1)
    point = made.points["qlora-rank16-lr1e-4-rows250-seed2"]
    assert (point.experiment, point.data_size, point.seed) == ("qlora", 250, 2)
    assert point.coordinates == {"train.lora.rank": 16, "train.learning_rate": 1e-4}
    assert (point.method, point.curve) == ("qlora-rank16-lr1e-4-rows250", "qlora-rank16-lr1e-4")
    assert type(point)(**point.as_json()) == point
    train = made.experiments[point.name].train
    assert (train.rows, train.rows_by, train.epochs_of, train.seed) == (250, "draw", "all", 2)
    assert {name for name in made.points if name.startswith("notebook")} == {"notebook", "notebook-rows250"}
    assert len(by_curve(made.points.values())) == 6
    assert all(made.points[name].name == name for name in made.experiments)


def test_without_a_study_each_experiment_is_a_point_by_itself() -> None:
    made = config(THREE)
    assert [(p.name, p.method, p.coordinates, p.data_size) for p in made.points.values()] == [
        (name, name, {}, None) for name in ("qlora", "full", "notebook")
    ]


def test_equal_epochs_and_the_first_seed_of_an_experiment() -> None:
    sizes = {"rows": [100, "all"], "equal": "epochs"}
    made = config("train: {seed: 7}\n", data_sizes=sizes, seeds=2)
    assert list(made.experiments) == ["main-rows100", "main-rows100-seed8", "main", "main-seed8"]
    assert made.experiments["main-rows100"].train.epochs_of == "rows"
    assert made.experiments["main"] == config("train: {seed: 7}\n").experiments["main"]


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        ({}, {"seeds": 3}),
        ({"seeds": 2}, {"seeds": 3}),
        ({}, {"data_sizes": [10, "all"]}),
        ({"data_sizes": [20, "all"]}, {"data_sizes": [10, 20, "all"]}),
        ({"grid": {"train.lora.rank": [4]}}, {"grid": {"train.lora.rank": [1, 4]}}),
        (
            {"grid": {"train.lora.rank": [4]}},
            {"grid": [{"train.lora.rank": [4]}, {"train.epochs": [1, 2]}]},
        ),
    ],
)
def test_a_further_seed_size_or_point_renames_and_changes_no_other_run(fewer: dict, more: dict) -> None:
    before, after = config("", **fewer).experiments, config("", **more).experiments
    assert len(after) > len(before)
    assert all(after[name] == run for name, run in before.items())


def test_smoke_is_the_same_for_all_data_sizes() -> None:
    runs = config("", data_sizes=[100, 200, "all"]).experiments.values()
    assert len({str(run.smoke.applied_to(run.train)) for run in runs}) == 1
    assert len({str(run.full.applied_to(run.train)) for run in runs}) == 3


GRID = {"of": ["qlora"], "train.lora.rank": [4, 16]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {}}, "grid: it names no setting, so it has no points"),
        ({"grid": {"of": ["qlora"]}}, "grid: it names no setting"),
        ({"grid": []}, "grid: the list is empty"),
        ({"grid": [{}]}, "grid: it names no setting"),
        ({"grid": 5}, "grid: expected a mapping of settings to lists of values, not 5"),
        ({"grid": {"train.epochs": []}}, "grid.train.epochs: expected a list with at least one value, not []"),
        ({"grid": {"train.epochs": 3}}, "grid.train.epochs: expected a list"),
        ({"grid": {"train.lora.rnk": [1]}}, "grid: there is no setting 'train.lora.rnk'; did you mean 'rank'?"),
        ({"grid": {"train.lora": [{"rnk": 1}]}}, "grid: there is no setting 'train.lora.rnk'; did you mean 'rank'?"),
        ({"grid": {"train.epochs.x": [1]}}, "grid: there is no setting 'train.epochs.x'"),
        ({"grid": {"train.seed": [1, 2]}}, "grid: points that differ in train.seed are replicates"),
        ({"grid": {"of": ["qlor"], "train.epochs": [1]}}, "grid.of: there is no experiment 'qlor'; did you mean"),
        ({"grid": {"of": [], "train.epochs": [1]}}, "grid.of: expected a list of experiments, such as [qlora]"),
        ({"grid": {"train.epochs": ["x"]}}, "train.epochs: input should be a valid integer"),
        ({"grid": {"train.lora.rank": [4]}}, "grid.of: full trains all weights, for which train.lora.rank has no use"),
        ({"grid": {"train.learning_rate": ["1e-4", 0.0001]}}, "two runs are named qlora-lr1e-4: experiment qlora"),
        ({"experiments": {"a": {}, "a-seed1": {}}, "seeds": 2}, "two runs are named a-seed1: experiment a"),
        ({"study": {"baseline": "ful"}}, "study.baseline: there is no method 'ful'; did you mean 'full'?"),
        (
            {"grid": GRID, "study": {"baseline": "qlora"}},
            "'qlora' is several methods; name one of them, such as qlora-",
        ),
        ({"study": {"max_point": 3}}, "study.max_point: there is no such key; did you mean 'max_points'?"),
        ({"seeds": 0}, "seeds.count: input should be greater than or equal to 1; given was 0"),
        ({"seeds": "x"}, "seeds.count: input should be a valid integer"),
        ({"seeds": {"of": ["x"], "count": 2}}, "seeds.of: there is no experiment 'x'"),
        ({"data_sizes": ["al"]}, "data_sizes.rows.0: expected a number of rows from 1 to 1,000,000,000, or all"),
        ({"data_sizes": [9, 9]}, "data_sizes.rows: 9 is listed twice"),
        ({"data_sizes": []}, "data_sizes.rows: list should have at least 1 item"),
        ({"data_sizes": {"rows": [9], "equal": "x"}}, "data_sizes.equal: input should be 'steps' or 'epochs'"),
        ({"data_sizes": [9], "train": {"rows": 99}}, "experiments.qlora: data_sizes says on how many rows it trains"),
        ({"data_sizes": [9], "full": {"rows": 99}}, "and so does full.rows; give one of them"),
        ({"data_sizes": [9], "grid": {"train.rows": [1]}}, "and so does train.rows; give one of them"),
        ({"gird": {}}, "unknown key 'gird' in the configuration; did you mean 'grid'?"),
        ({"experiments": {"x" * 63: {}}, "seeds": 2}, "has a name of 69 bytes, at most 64 are allowed"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        config(THREE, **change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_that_is_too_large_says_its_size_before_any_run_is_made() -> None:
    grid = {"of": ["qlora"], "train.lora.rank": list(range(1, 101)), "train.epochs": list(range(1, 101))}
    with pytest.raises(TooManyRuns, match=r"the study has 10,002 runs, more than study\.max_points \(100\)") as error:
        config(THREE, grid=grid)
    assert error.value.runs == {"qlora": 10_000, "full": 1, "notebook": 1}
    assert len(config(THREE, grid=GRID, seeds=5, study={"max_points": 20}).experiments) == 20


def test_experiments_that_are_written_out_are_not_counted() -> None:
    assert len(config("", experiments={f"e{n}": {} for n in range(150)}).experiments) == 150


def test_a_long_name_keeps_experiment_size_and_seed() -> None:
    fields = ("log_every", "validate_every", "checkpoint_steps", "keep_checkpoints")
    grid = {f"train.{name}": [101, 102] for name in fields}
    names = list(config("", grid=grid, seeds=2).experiments)
    assert len(set(names)) == 32
    assert all(len(name) <= 64 and name.startswith("main-point_") for name in names)
    assert names[1] == f"{names[0]}-seed1"
