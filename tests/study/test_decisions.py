"""The stage `halve`: a method goes on or stops with all its seeds, each with its reason."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.files import read_json, write_json
from dreamtune.settings.study import Halving
from dreamtune.study.decisions import run_halve
from dreamtune.study.ended import Ended, stopped_runs

HALVING = Halving(after=[0.25])
METHODS = {name: [name, f"{name}-seed1"] for name in "abcd"}
NLL = {"a": (1.0, 3.0), "b": (2.1, 2.2), "c": (1.5, 1.6), "d": (9.0, 1.0)}


def rungs(folder: Path, nll: dict[str, tuple[float | None, float]], ended: str | None = None) -> dict[str, Path]:
    """Write the rungs of two seeds of each method; return their folders by run."""
    found = {}
    for name, pair in nll.items():
        for run, value in zip((name, f"{name}-seed1"), pair, strict=True):
            found[run] = folder / run
            found[run].mkdir(parents=True)
            write_json(found[run] / "rung.json", {"validation_nll": value, "ended": ended if value is None else None})
    return found


def decide(folder: Path, reads: dict[str, Path], share: float = 0.25, methods: Any = METHODS) -> dict[str, Any]:
    folder.mkdir()
    run_halve(HALVING, share, methods, reads, folder)
    return dict(read_json(folder / "halve.json"))


def test_the_mean_over_seeds_decides_and_all_seeds_stop_together(tmp_path: Path) -> None:
    """Not the best seed of a method, which would let the most scattered ones go on."""
    reads = rungs(tmp_path, NLL)
    found = decide(tmp_path / "first", reads)
    assert [one["point"] for one in found["decisions"]] == ["c", "a", "b", "d"]
    assert [one["nll"] for one in found["decisions"]] == pytest.approx([1.55, 2.0, 2.15, 5.0])
    assert found["stopped"].keys() == {"b", "b-seed1", "d", "d-seed1"}
    why = "stopped: place 3 of 4 by validation NLL (2.15) after 25 % of its steps"
    assert found["stopped"]["b-seed1"] == found["rungs"][reads["b"].as_posix()] == why
    assert found["rungs"][reads["a"].as_posix()] is None


def test_the_next_decision_is_about_those_that_are_left_and_keeps_those_before(tmp_path: Path) -> None:
    decide(tmp_path / "first", rungs(tmp_path / "25", NLL))
    left = rungs(tmp_path / "50", {"a": (1.0, 1.0), "c": (1.2, 1.2)}) | {"decided:before": tmp_path / "first"}
    found = decide(tmp_path / "second", left, 0.5)
    assert [(one["point"], one["share"], one["stops"]) for one in found["decisions"][4:]] == [
        ("a", 0.5, False),
        ("c", 0.5, True),
    ]
    assert found["stopped"].keys() == {f"{name}{seed}" for name in "bcd" for seed in ("", "-seed1")}
    assert found["rungs"].keys() == {left[run].as_posix() for run in ("a", "a-seed1", "c", "c-seed1")}
    first, *_ = stopped_runs({"decided:grid": tmp_path / "second", "a/full": tmp_path})
    assert first == Ended("b", "halving", "place 3 of 4 by validation NLL (2.15) after 25 % of its steps")


def test_a_method_of_which_a_seed_diverged_stops_and_says_which(tmp_path: Path) -> None:
    found = decide(tmp_path / "first", rungs(tmp_path, NLL | {"c": (None, 1.0)}, ended="step 3: the loss is nan"))
    assert found["stopped"]["c"] == found["stopped"]["c-seed1"] == "stopped: c: step 3: the loss is nan"
    assert found["decisions"][-1] | {"reason": ""} == {
        **{"point": "c", "share": 0.25, "nll": None, "place": 4, "of": 4, "stops": True, "reason": ""}
    }


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_rung_that_two_points_share_goes_on_with_the_better_one(tmp_path: Path, first: str) -> None:
    """Equal settings under two names: the rung of the one that stops is that of the one that goes on."""
    reads = rungs(tmp_path, {"a": (1.0, 1.0)})
    same = {run: reads[run.replace("b", "a")] for run in ("a", "a-seed1", "b", "b-seed1")}
    methods = {first: METHODS[first], **{name: METHODS[name] for name in "ab"}}
    found = decide(tmp_path / "first", same, methods=methods)
    assert len(found["stopped"]) == 2 and set(found["rungs"].values()) == {None}
