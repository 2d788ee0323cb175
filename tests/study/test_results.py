"""The stage `study`: from the folders of several runs to its table, its words and its sentences."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.study import STUDY
from dreamtune.formats.study_schema import study_schemas
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import StudyConfig
from dreamtune.study import results
from dreamtune.study.ended import Ended
from dreamtune.study.measured import reads_of_run
from dreamtune.study.points import Point
from dreamtune.study.results import run_study
from report_fixture import write_reads

MEMBERS = [
    Point("full"),
    *(Point("qlora", seed=seed) for seed in range(3)),
    Point("grid", {"train.lora.rank": 4}),
    Point("grid", {"train.lora.rank": 8}),
]
SHARES = {"full": 0.5, "qlora": 0.74, "qlora-seed1": 0.7, "qlora-seed2": 0.72, "grid-rank4": 0.9, "grid-rank8": 0.1}
COMPARISON = Comparison(resamples=200)
VALIDATOR = jsonschema.Draft202012Validator(study_schemas()["study"])


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of all runs, by "RUN/NAME"; that of grid-rank8 fails a hard canary."""
    root, found = tmp_path_factory.mktemp("study"), {}
    for name, share in SHARES.items():
        folders = write_reads(root / name, base=0.12, tuned=share, leak=name == "grid-rank8")
        found |= {f"{name}/{key}": folder for key, folder in folders.items()}
    return found


def study(
    reads: dict[str, Path],
    out: Path,
    members: list[Point] = MEMBERS,
    ended: Sequence[Ended] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Run the stage; return the content of study.json."""
    out.mkdir(exist_ok=True)
    run_study(StudyConfig(**settings), COMPARISON, members, reads, out, ended)
    found: dict[str, Any] = read_json(out / "study.json")
    VALIDATOR.validate(found)  # of every one that is made here
    return found


def rows(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["comparison"]: row for row in content["comparisons"]}


def test_each_method_is_compared_with_the_base_and_with_the_baseline(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, baseline="full", equivalence_points=5.0)
    assert content["family"] == ["full against the base", "qlora against the base", "qlora against full"]
    found = rows(content)
    assert list(found)[3:] == [
        "grid-rank4 against the base",
        "grid-rank4 against full",
        "grid-rank8 against the base",
        "grid-rank8 against full",
    ]
    assert [row["word"] for row in found.values()][:5] == ["improved"] * 3 + ["exploratory"] * 2
    against = found["qlora against full"]
    assert against["gain"] == pytest.approx(0.22) and (against["seeds"], against["seeds_against"]) == (3, 1)
    assert against["about"] == "adapters" and against["equivalence"] == "no worse"
    assert against["p_adjusted"] >= against["p"]
    assert against["sentence"].startswith("qlora (3 seeds) against this run of full: improved, +22.0 points, 95 % ")
    assert found["qlora against the base"]["about"] == "method"


def test_the_table_is_the_same_in_parquet_and_csv(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, baseline="full")
    table = pl.read_parquet(tmp_path / "study.parquet")
    assert table.schema == STUDY and table.to_dicts() == content["comparisons"]
    assert pl.read_csv(tmp_path / "study.csv")["sentence"].to_list() == table["sentence"].to_list()


def test_a_run_whose_canaries_failed_is_never_called_improved(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, comparisons=["grid-rank8"])
    row = rows(content)["grid-rank8 against the base"]
    assert (row["role"], row["word"], row["p"], row["low"]) == ("confirmatory", "not tested", None, None)
    assert row["test"].startswith("invalid: grid-rank8: ") and row["sentence"].endswith(row["test"])
    assert content["methods"]["grid-rank8"]["invalid"].keys() == {"grid-rank8"}
    assert "grid-rank8" not in content["choice"]["means"]


def test_the_best_of_all_has_limits_for_all_together(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path)
    best, row = content["choice"], rows(content)["grid-rank4 against the base"]
    assert best["winner"] == "grid-rank4" and best["split"] == "test"
    assert best["low"] < row["low"] and best["high"] > row["high"]
    assert best["label"].startswith("the best of 3 on the questions that measure it")


def test_the_best_is_the_one_with_most_right_answers_whatever_its_base_had(
    reads: dict[str, Path], tmp_path: Path
) -> None:
    """A causal checkpoint that is asked to fill in masks is right nowhere: a gain over it is no merit."""
    found = dict(reads)
    for name, base, tuned in (("diffusion", 0.0, 0.5), ("causal", 0.3, 0.6)):
        folders = write_reads(tmp_path / name, base=base, tuned=tuned)
        found |= {f"{name}/{key}": folder for key, folder in folders.items()}
    content = study(found, tmp_path / "out", [Point("diffusion"), Point("causal")])
    gains = {row["method"]: row["gain"] for row in content["comparisons"]}
    assert gains["diffusion"] > gains["causal"]
    best = content["choice"]
    assert best["winner"] == "causal" and best["gain"] == gains["causal"]
    assert best["means"] == pytest.approx({"diffusion": 0.5, "causal": 0.6})


def test_the_nll_is_compared_in_nats_and_a_fall_is_a_gain(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, primary="nll", baseline="full")
    row = rows(content)["qlora against the base"]
    assert content["unit"].startswith("nats") and row["gain"] > 0
    assert " nats per token, 95 % interval +" in row["sentence"] and row["equivalence"] is None


def test_an_exact_nll_is_not_compared_with_a_bound(reads: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "causal"
    shutil.copytree(reads["full/likelihood"], folder)
    bins = folder / "likelihood.json"
    bins.write_text(json.dumps(read_json(bins) | {"kind": "exact"}))
    content = study(reads | {"full/likelihood": folder}, tmp_path / "out", primary="nll", baseline="qlora")
    assert content["not_compared"] == ["full against qlora"]
    assert "full against the base" in rows(content)
    assert content["choice"] is None, "nor are they ranked"
    alike = study(reads, tmp_path / "alike", primary="nll")
    assert alike["choice"]["winner"] in SHARES and all(-10 < mean < 0 for mean in alike["choice"]["means"].values())


def test_a_large_family_gets_the_sign_flips_that_its_smallest_p_needs() -> None:
    """With 200 flips no p is below 1 / 201, so that of 27 comparisons none could ever be found."""
    assert 27 / (results._resamples(COMPARISON, 27) + 1) < 0.05 / 10
    assert results._resamples(Comparison(), 3) == 10_000


def test_data_sizes_make_a_learning_curve(reads: dict[str, Path], tmp_path: Path) -> None:
    members = [Point("qlora", data_size=rows) for rows in (10, 20, 40)]
    found = {}
    for point, share in zip(members, (0.2, 0.3, 0.4), strict=True):
        folders = write_reads(tmp_path / point.name, base=0.1, tuned=share)
        record = folders["full"] / "training.json"
        record.write_text(json.dumps(read_json(record) | {"rows": point.data_size}))  # with a NaN
        found |= {f"{point.name}/{key}": folder for key, folder in folders.items()}
    curve = study(found, tmp_path / "out", members)["curves"]["qlora"]
    assert curve["per_doubling"]["value"] == pytest.approx(0.1)
    assert curve["next_doubling"] is None and curve["refusal"] == "nothing is foretold from 3 sizes; 4 are needed"


def test_runs_on_other_questions_are_refused(reads: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for who in ("base", "tuned"):
        scores = pl.read_parquet(reads[f"full/scores/test/greedy/{who}"] / "scores.parquet")
        (folder / who).mkdir()
        scores.with_columns(reference=pl.lit("other")).write_parquet(folder / who / "scores.parquet")
    other = {f"full/scores/test/greedy/{who}": folder / who for who in ("base", "tuned")}
    with pytest.raises(UserError, match="qlora and full were not measured on the same questions"):
        study(reads | other, tmp_path / "out", baseline="full")


def test_a_run_without_answers_is_named(reads: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run full has no graded answers"):
        study({"full/full": reads["full/full"]}, tmp_path, [Point("full")])


def test_a_method_that_lost_a_seed_is_named_so_in_each_sentence(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, ended=[Ended("qlora-seed1", "gate", "targets_hidden")], baseline="full")
    row = rows(content)["qlora against the base"]
    who = "these 2 runs of qlora (2 of 3 seeds; 1 failed its gate)"
    assert row["sentence"].startswith(f"{who} against the base model: improved, +61.0 points")
    assert (row["seeds"], row["ended"], row["about"]) == (2, "qlora: 2 of 3 seeds; 1 failed its gate", "adapters")
    assert rows(content)["qlora against full"]["sentence"].startswith(f"{who} against this run of full: improved")
    assert content["ended"] == [{"name": "qlora-seed1", "by": "gate", "reason": "targets_hidden"}]
    assert content["methods"]["qlora"]["lost"] == "2 of 3 seeds; 1 failed its gate"
    assert rows(content)["full against the base"]["ended"] is None and content["methods"]["full"]["lost"] is None


def test_a_method_of_which_nothing_is_left_counts_in_the_family_and_is_not_tested(
    reads: dict[str, Path], tmp_path: Path
) -> None:
    ended = [Ended(name, "failure", "out of memory") for name in ("qlora", "qlora-seed1", "qlora-seed2")]
    whole = study(reads, tmp_path / "a", baseline="full")
    content = study(reads, tmp_path / "b", ended=ended, baseline="full")
    assert content["family"] == whole["family"]
    row, other = rows(content)["qlora against full"], rows(content)["full against the base"]
    assert (row["word"], row["gain"], row["low"], row["p"], row["seeds"]) == ("not tested", None, None, None, 0)
    who = "qlora (0 of 3 seeds; 3 failed) against this run of full"
    assert row["sentence"] == f"{who}: not tested; no run of qlora finished"
    assert other["p_adjusted"] == rows(whole)["full against the base"]["p_adjusted"] == 3 * other["p"]
    assert "qlora" not in content["choice"]["means"]


def test_a_baseline_that_ended_leaves_the_comparisons_with_the_base(reads: dict[str, Path], tmp_path: Path) -> None:
    content = study(reads, tmp_path, ended=[Ended("full", "gate", "targets_hidden")], baseline="full")
    found = rows(content)
    assert found["qlora against full"]["test"] == "no run of full finished"
    assert found["qlora against full"]["ended"] == "full: 0 of 1 seed; 1 failed its gate"
    assert found["qlora against the base"]["word"] == "improved"


def test_a_grid_counts_the_points_that_ended(reads: dict[str, Path], tmp_path: Path) -> None:
    members = [Point("grid", {"train.lora.rank": rank}) for rank in (4, 8, 16)]
    of = {"grid-rank4": "grid-rank4", "grid-rank16": "full"}
    found = {f"{name}/{key}": path for name in of for key, path in reads_of_run(reads, of[name]).folders.items()}
    [grid] = study(found, tmp_path, members, [Ended("grid-rank8", "halving", "place 3 of 3")])["grids"]
    assert grid["left_out"] == 1


def test_without_a_finished_run_there_is_no_study(reads: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 ended without a report; full: it was stopped early: why"):
        study(reads, tmp_path, [Point("full")], [Ended("full", "halving", "why")])
