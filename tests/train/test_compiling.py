"""Layers are compiled where that pays, and smoke decides as the full run does."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import FIXTURES, ROOT
from dreamtune.config import load_config
from dreamtune.inputs.identity import FileDigests
from dreamtune.train import compiling
from dreamtune.train.compiling import saved_s, with_compiling
from dreamtune.train.micro_batch_plan import Shape
from dreamtune.train.windows import Share
from dreamtune.workflow.experiments import make_plan
from tests.train.test_micro_batch_plan import CUDA, DREAM
from tiny import settings

SMALL = Shape(layers=30, hidden=576, intermediate=1536, vocabulary=49_152, packed=0, element=2)


@pytest.fixture
def decide(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that decides for a run on rows of 2,048 tokens, on a GPU of 700 TFLOP/s."""
    monkeypatch.setattr(Shape, "of", classmethod(lambda cls, model: DREAM))
    monkeypatch.setattr(compiling, "product_rate", lambda *_: 7e14)
    monkeypatch.setattr(
        compiling, "unwrap", lambda model: SimpleNamespace(config=SimpleNamespace(dtype=torch.bfloat16))
    )

    def decided(
        rows: int, train: Any, full: Any = None, device: torch.device = CUDA, processes: int = 1
    ) -> bool | None:
        windows: Any = SimpleNamespace(lengths=np.full(rows, 2048), window_tokens=8 * 2048)
        return with_compiling(torch.nn.Module(), train, windows, Share(0, processes, device=device), full).compile

    return decided


def test_short_runs_are_not_compiled_and_smoke_does_as_full_will(decide: Any) -> None:
    full = settings(epochs=3, global_batch=8, max_tail=0, rows=None)
    smoke = full.model_copy(update={"rows": 64, "epochs": 1})
    for rows, pays in ((85, False), (600, True)):
        assert decide(rows, full) is pays and decide(rows, smoke, full) is pays
    assert decide(600, smoke) is False  # by itself
    assert decide(600, full, processes=8) is False  # each of which saves an eighth


def test_what_the_user_sets_is_kept_and_a_cpu_decides_nothing(decide: Any) -> None:
    for asked in (True, False):
        assert decide(85, settings(compile=asked)) is asked
    assert decide(1740, settings(), device=torch.device("cpu")) is None


def test_a_small_model_pays_by_its_launches() -> None:
    """At 135M parameters the products of 5,000 steps take half a minute, and launching them many."""
    tokens = 5_000 * 5_000
    assert saved_s(SMALL, tokens, 5_000, 7e14) == pytest.approx(5_000 * 30 * 0.003)
    assert saved_s(SMALL, tokens / 100, 5_000, 7e14) < compiling.COMPILE_S


def test_smoke_is_told_of_the_full_run_and_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(FileDigests, "save", lambda self: None)
    config = load_config(FIXTURES / "micro.yaml")
    [one] = config.experiments.values()
    longer = one.model_copy(update={"full": one.full.model_copy(update={"epochs": 7})})
    smoke = []
    for experiment in (one, longer):
        plan, _ = make_plan(config.model_copy(update={"experiments": {"one": experiment}}))
        runs = {spec["settings"].get("run"): spec for spec in plan.values()}
        assert "full" not in runs["full"]["runtime"]
        assert runs["smoke"]["runtime"]["full"] == runs["full"]["settings"]["train"] | runs["full"]["runtime"]["train"]
        smoke.append(runs["smoke"])
    assert smoke[0]["version"] == smoke[1]["version"] and smoke[0]["runtime"] != smoke[1]["runtime"]
