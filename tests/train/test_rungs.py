"""A training cut into rungs: the full run is that of an uncut one to the bit, and a stopped one ends with one line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import UserError
from dreamtune.formats.halving import WHOLE, Rung
from dreamtune.settings.model import ModelConfig
from dreamtune.train import steps as loop
from dreamtune.train.train import train_adapter
from tiny import settings
from training_runs import Train, adapter, log, read, steps

pytest_plugins = "training_runs"  # its fixtures
UNTIMED = ("step", "epoch", "loss", "elbo", "lr", "grad_norm", "tokens", "validation_nll")
Climb = Callable[..., Path]


@pytest.fixture
def climb(base: ModelConfig, shards: Path, tmp_path: Path) -> Climb:
    """Return a function that trains one rung into a new folder."""

    def run(rung: Rung, before: Path | None = None, decision: Path | None = None, **changes: Any) -> Path:
        out = tmp_path / f"rung-{len(list(tmp_path.glob('rung-*')))}"
        out.mkdir()
        given = (settings(**changes), base, changes.pop("rows_of", shards), out, out / "work")
        train_adapter(*given, rung=rung, before=before, decision=decision)
        return out

    return run


def untimed(out: Path) -> list[dict[str, Any]]:
    return [{name: line.get(name) for name in UNTIMED} for line in log(out)]


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_training_in_rungs_is_the_whole_one(shared: Train, climb: Climb, log_every: int) -> None:
    """With dropout, tails and the optimiser's moments; rungs end between validations, and no step is trained twice."""
    whole = shared(log_every=log_every)
    first = climb(Rung(0.0, 0.25), log_every=log_every)
    second = climb(Rung(0.25, 0.6), first, log_every=log_every)
    full = climb(Rung(0.6, 1.0), second, log_every=log_every)
    assert adapter(full) == adapter(whole) and untimed(full) == untimed(whole)
    assert read(full, "training.json")["validation"] == read(whole, "training.json")["validation"]
    assert read(full, "training.json")["resumed_from"] == [3, 8]
    assert [read(out, "rung.json")["step"] for out in (first, second)] == [3, 8]
    if log_every == 1:
        assert steps(first) == [1, 2, 3] and steps(second) == list(range(1, 9))


def test_a_rung_that_ends_at_a_validation_measures_the_same(shared: Train, climb: Climb) -> None:
    half = read(climb(Rung(0.0, 0.5)), "rung.json")
    [logged] = [
        line["validation_nll"] for line in log(shared(log_every=1)) if line["step"] == 6 and "validation_nll" in line
    ]
    assert half == {"step": 6, "steps": 12, "validation_nll": logged, "ended": None}


def test_a_rung_that_was_killed_goes_on_from_its_own_checkpoint(
    shared: Train, climb: Climb, base: ModelConfig, shards: Path, tmp_path: Path
) -> None:
    first = climb(Rung(0.0, 0.25))
    out = tmp_path / "again"
    for number, rung in enumerate([Rung(0.25, 0.5), Rung(0.25, 0.6)]):  # the second begins where the first left work
        (out / str(number)).mkdir(parents=True)
        train_adapter(settings(), base, shards, out / str(number), out / "work", rung=rung, before=first)
    assert read(out / "1", "rung.json")["step"] == 8
    assert adapter(climb(Rung(0.6, 1.0), out / "1")) == adapter(shared(log_every=1))


def test_a_loss_that_is_not_finite_is_reported_and_leaves_no_checkpoint(
    climb: Climb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the other points of the grid need not wait for this one for ever."""
    original = loop.stop_unless_finite
    monkeypatch.setattr(
        loop, "stop_unless_finite", lambda step, loss, norm: original(step, math.nan if step == 3 else loss, norm)
    )
    out = climb(Rung(0.0, 0.5))
    found = read(out, "rung.json")
    assert (found["step"], found["validation_nll"]) == (2, None)
    assert found["ended"].startswith("step 3: the loss is nan") and "lower train.learning_rate" in found["ended"]
    assert not (out / "reached").exists()


def test_a_stopped_run_ends_with_the_reason_before_it_loads_anything(climb: Climb, tmp_path: Path) -> None:
    before, reason = tmp_path / "rung", "stopped: place 7 of 9 by validation NLL (1.93) after 25 % of its steps"
    (tmp_path / "halve.json").write_text(json.dumps({"rungs": {before.as_posix(): reason}}))
    with pytest.raises(UserError, match=r"^stopped: place 7 of 9 by validation NLL \(1\.93\) after 25 % of its steps$"):
        climb(Rung(0.25, 1.0), before, tmp_path)


def test_without_validation_rows_nothing_can_be_decided(climb: Climb) -> None:
    with pytest.raises(UserError, match=r"^study\.halving decides by the validation NLL, and there are no validation"):
        climb(Rung(0.0, 0.5), validation_rows=0)


def test_a_rung_has_a_step_at_least() -> None:
    assert Rung(0.0, 0.1).last_step(3) == 1 and WHOLE.last_step(3) == 3
