"""The loop's order: the device has the next window before the host reads the numbers of the last step."""

import signal
from pathlib import Path

import pytest

from dreamtune.errors import UserError
from dreamtune.interruption import Interrupted
from dreamtune.train import micro_batches
from dreamtune.train import steps as loop
from training_runs import Train, adapter, read, steps

pytest_plugins = "training_runs"  # its fixtures


def test_numbers_are_read_while_the_next_window_runs(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for steps behind which the weights are judged or written."""
    told, launch, read_numbers = list[str](), loop.accumulate, loop.Launched.read

    def accumulate(run, windows, step):  # type: ignore[no-untyped-def]
        told.append(f"window {step}")
        return launch(run, windows, step)

    def read_and_tell(launched: loop.Launched) -> list[float]:
        told.append(f"numbers {launched.step}")
        return read_numbers(launched)

    monkeypatch.setattr(loop, "accumulate", accumulate)
    monkeypatch.setattr(loop.Launched, "read", read_and_tell)
    monkeypatch.setattr(loop, "save", lambda run: told.append(f"saved {run.history.step}"))
    train(max_steps=6, checkpoint_steps=3, validation_rows=0)
    assert told[:7] == ["window 1", "window 2", "numbers 1", "window 3", "numbers 2", "numbers 3", "saved 3"]
    assert told[7:] == ["window 4", "window 5", "numbers 4", "window 6", "numbers 5", "numbers 6", "saved 6"]


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_stop_keeps_the_step_that_is_done(
    train: Train, shared: Train, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The weights have it already, and its numbers are read before the checkpoint is written."""
    whole = shared(max_steps=6)
    real, calls = micro_batches.window_sums, []

    def stopped(run, window, number):  # type: ignore[no-untyped-def]
        calls.append(number)
        if number == step:
            run.stop.received = signal.SIGTERM
        return real(run, window, number)

    with monkeypatch.context() as patch:
        patch.setattr(micro_batches, "window_sums", stopped)
        with pytest.raises(Interrupted, match=f"a checkpoint after step {step - 1} of 6 is kept"):
            train("stopped", max_steps=6)
    resumed = train("stopped", max_steps=6)
    assert adapter(resumed) == adapter(whole) and steps(resumed) == [1, 2, 3, 4, 5, 6]
    assert read(resumed, "training.json")["resumed_from"] == [step - 1]


def test_what_the_next_window_did_is_not_blamed(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step whose numbers are not finite changes nothing, and the next window runs on the same weights."""
    sums, weights = loop.accumulate, list[float]()

    def broken(run, windows, step):  # type: ignore[no-untyped-def]
        weights.append(sum(weight.double().abs().sum().item() for weight in run.finetuning.parameters))
        window, found = sums(run, windows, step)
        return window, found * float("nan") if step == 3 else found

    monkeypatch.setattr(loop, "accumulate", broken)
    with pytest.raises(UserError, match="step 3: the loss is nan"):
        train("broken", max_steps=6, validation_rows=0)
    assert len(weights) == 4 and weights[2] == weights[3] != weights[1]
    assert not list((tmp_path / "broken/checkpoints").glob("step-000003"))
