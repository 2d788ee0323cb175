"""The validation bound does not depend on how many processes share its rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamtune.interruption import StopSignals
from dreamtune.model.loading import load
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split
from dreamtune.train import validation
from dreamtune.train.log import History, Log
from dreamtune.train.windows import Share, validation_batches
from tiny import plan, settings

pytest_plugins = "training_runs"  # its fixtures


@pytest.mark.parametrize("synchronous", [True, False], ids=["full fine-tuning", "an adapter"])
def test_the_bound_is_the_same_on_one_two_four_and_eight_processes(
    base: ModelConfig, shards: Path, monkeypatch: pytest.MonkeyPatch, synchronous: bool
) -> None:
    """Six rows in a few micro-batches: synchronous processes get copies without targets, the others nothing at all.

    The processes are shares of this one; `reduce` adds up what each of them measured.
    """
    model, meta, split = load(base), read_meta(shards), read_split(shards, "validation")
    found = {}
    for processes in (1, 2, 4, 8):
        runs = [
            SimpleNamespace(
                model=model,
                share=(share := Share(process, processes, synchronous)),
                validation=tuple(validation_batches(split, meta, settings(), share, plan(40))),
                validates=True,
                stop=StopSignals(),
                history=History(),
                windows=SimpleNamespace(per_epoch=1),
            )
            for process in range(processes)
        ]
        total = sum((validation.validation_sums(run) for run in runs), torch.zeros(2))  # type: ignore[arg-type]
        monkeypatch.setattr(validation, "reduce", lambda sums, how, total=total: total)
        first: Any = runs[0]
        validation.validate(first, Log(first.history, None, None))
        found[processes] = first.history.lines[0]["validation_nll"]
        if synchronous:
            assert len({len(run.validation) for run in runs}) == 1
    assert len(list(validation_batches(split, meta, settings(), Share(), plan(40)))) > 2
    assert found == pytest.approx(dict.fromkeys(found, found[1]), abs=1e-6)
    assert found[1] > 1
