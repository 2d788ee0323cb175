"""`train.learning_rate: find` in a run: what smoke chooses is what full takes, and the test itself leaves no trace."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import UserError
from dreamtune.interruption import Interrupted
from dreamtune.settings.model import ModelConfig
from dreamtune.train import steps
from dreamtune.train import train as training
from training_runs import Train, adapter, log, losses, read

pytest_plugins = "training_runs"  # its fixtures
RANDOM = {"mask_counts": "random"}  # under exact counts the loss of this model, of random weights, turns at no rate
FIND = RANDOM | {"learning_rate": "find"}


def test_smoke_finds_a_rate_and_is_then_the_run_with_that_number(
    train: Train, shared: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test's weights are thrown away: losses, weights and canaries are those of a run that was given the number."""
    found = train("smoke", **FIND)
    said = capsys.readouterr().err
    curve = read(found, "range_test.json")
    chosen = curve["chosen"]
    assert 1e-5 < chosen < 1e-1 and curve["fall"] > 0.02
    assert f"train.learning_rate is {chosen:.1e}" in said and said.count("range test") == 1
    assert read(found, "training.json")["learning_rate"] == chosen
    given = shared(learning_rate=chosen, **RANDOM)
    assert adapter(found) == adapter(given) and losses(found) == losses(given)
    assert [line["lr"] for line in log(found) if "lr" in line] == [line["lr"] for line in log(given) if "lr" in line]
    assert not (given / "range_test.json").exists()


def test_full_takes_what_smoke_found(train: Train, shared: Train, tmp_path: Path) -> None:
    smoke = shutil.copytree(shared(**FIND), tmp_path / "smoke")
    chosen = read(smoke, "range_test.json")["chosen"]
    full = train("full", smoke, **FIND)
    assert read(full, "training.json")["learning_rate"] == chosen
    assert adapter(full) == adapter(shared(learning_rate=chosen, **RANDOM))
    (smoke / "range_test.json").write_text(json.dumps({"chosen": 3e-3}))
    other = train("other", smoke, **FIND, max_steps=1)
    assert read(other, "training.json")["learning_rate"] == 3e-3
    (smoke / "range_test.json").unlink()
    with pytest.raises(UserError, match=r"holds no range_test\.json"):
        train("none", smoke, **FIND)


def test_a_resumed_smoke_does_not_test_again(train: Train, shared: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoint holds the curve, which is that of an uninterrupted run: the test is the same each time."""
    whole = shared(**FIND)
    real, calls = steps.update, []

    def stopped(run: steps.Run) -> None:
        real(run)
        calls.append(1)
        if len(calls) == 5:
            raise Interrupted("stopped by a test")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "update", stopped)
        with pytest.raises(Interrupted, match="a checkpoint after step 4"):
            train("work", **FIND)
    monkeypatch.setattr(training, "try_rates", lambda run: pytest.fail("the range test ran again"))
    resumed = train("work", **FIND)
    assert read(resumed, "range_test.json") == read(whole, "range_test.json")
    assert read(resumed, "training.json")["resumed_from"] == [4]


def test_a_range_test_that_is_stopped_is_made_again(
    train: Train, shared: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = training.window_sums, []

    def stopped(run: training.Run, *given: Any) -> Any:
        calls.append(run)
        if len(calls) == 30:
            run.stop.received = signal.SIGTERM
        return real(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "window_sums", stopped)
        with pytest.raises(Interrupted, match=r"stopped by SIGTERM; no step was finished; start snakemake again"):
            train("work", **FIND)
    again = train("work", **FIND)
    chosen = read(again, "range_test.json")["chosen"]
    assert adapter(again) == adapter(shared(learning_rate=chosen, **RANDOM))


def test_rows_from_which_nothing_can_be_learned_are_refused(
    train: Train, base: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "set_learning_rate", lambda optimizer, rate: None)  # as if no rate moved anything
    with pytest.raises(UserError, match=r"train\.learning_rate find: the loss fell by less than 2%"):
        train(**FIND)
