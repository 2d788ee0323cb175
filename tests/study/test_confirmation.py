"""The stage `confirm`: who wins on validation answers, and what is then said of the winner alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.reads import Reads
from dreamtune.formats.study_schema import study_schemas
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import StudyConfig
from dreamtune.study.confirmation import run_confirm, validation_answers
from dreamtune.study.ended import Ended
from dreamtune.study.points import Point
from report_fixture import write_reads

VALIDATOR = jsonschema.Draft202012Validator(study_schemas()["confirm"])
MEMBERS = [Point("small"), Point("large"), Point("large", seed=1), Point("leaks")]
TEST = {"small": 0.5, "large": 0.4, "large-seed1": 0.42, "leaks": 0.9}  # shares of right answers
VALIDATION = {"small": 0.4, "large": 0.5, "large-seed1": 0.46, "leaks": 0.9}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, found = tmp_path_factory.mktemp("confirm"), {}
    for name, share in TEST.items():
        reads = write_reads(root / name, base=0.12, tuned=share, leak=name == "leaks")
        found |= {f"{name}/{key}": folder for key, folder in reads.items()}
    return found


def validation(root: Path, questions: int = 250) -> dict[str, Path]:
    """Write scores of each run's validation answers, whose first question is undecided for one run."""
    found = {}
    for name, share in VALIDATION.items():
        folder = root / f"validation-{name}"
        folder.mkdir(parents=True)
        right = pl.Series(np.arange(questions) < share * questions)
        if name == "small":
            right = pl.Series([None, *right[1:]], dtype=pl.Boolean)
        frame = pl.DataFrame({"example_id": range(questions), "sample": [0] * questions, "correct": right})
        frame.with_columns(gradable=True).write_parquet(folder / "scores.parquet")
        found[f"{name}/scores/validation/greedy/tuned"] = folder
    return found


def confirm(
    reads: dict[str, Path], out: Path, members: list[Point] = MEMBERS, ended: Sequence[Ended] = ()
) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    run_confirm(members, StudyConfig(equivalence_points=2.0), Comparison(resamples=200), reads, out, ended)
    found: dict[str, Any] = read_json(out / "confirm.json")
    VALIDATOR.validate(found)  # of every one that is made here
    return found


def test_the_winner_on_validation_is_measured_on_test_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    found = confirm(folders | validation(tmp_path), tmp_path)
    assert found["choice"]["winner"] == "large" and found["choice"]["questions"] == 249
    assert found["choice"]["means"].keys() == {"small", "large"}, "a run whose canary failed is no candidate"
    assert found["left_out"].keys() == {"leaks"}
    comparison = found["comparison"]
    assert comparison["gain"] == pytest.approx(0.41 - 0.12), "though another is better on test"
    assert (comparison["word"], comparison["p_adjusted"]) == ("improved", comparison["p"])
    assert "adjusted" not in comparison["sentence"], "it is the only comparison of its family"
    assert found["label"] == "chosen among 2 on 249 validation questions, measured on the test's"


def test_34_validation_questions_are_too_few(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 points are to be chosen from on 33 validation questions, but at least 200"):
        confirm(folders | validation(tmp_path, questions=34), tmp_path)


def test_nobody_wins_where_all_failed(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method is left to choose"):
        confirm(folders | validation(tmp_path), tmp_path, [Point("leaks")])


def test_a_run_without_validation_answers_has_none() -> None:
    assert validation_answers(Reads({})).height == 0


def test_a_winner_that_lost_a_seed_is_named_so(folders: dict[str, Path], tmp_path: Path) -> None:
    found = confirm(folders | validation(tmp_path), tmp_path, ended=[Ended("large-seed1", "failure", "out of memory")])
    assert found["choice"]["winner"] == "large"
    assert found["left_out"]["large-seed1"] == "it failed: out of memory"
    assert found["comparison"]["sentence"].startswith("this run of large (1 of 2 seeds; 1 failed) against the base")


def test_a_method_whose_runs_all_ended_is_no_candidate(folders: dict[str, Path], tmp_path: Path) -> None:
    ended = [Ended(name, "gate", "targets_hidden") for name in ("large", "large-seed1")]
    found = confirm(folders | validation(tmp_path), tmp_path, ended=ended)
    assert found["choice"]["winner"] == "small" and found["choice"]["means"].keys() == {"small"}
