"""A working directory with rows and something that passes for a model, in which a study is planned in milliseconds."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.config import parse_config
from dreamtune.workflow.experiments import make_plan
from dreamtune.workflow.plan import Plan
from rows import write_model

Planned = Callable[..., Plan]
LEAST: dict[str, Any] = {"model": {"path": "model", "device": "cuda"}, "data": {"files": ["rows.parquet"]}}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """Return a function that plans a study."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")
    pl.DataFrame({"question": ["q"], "reasoning": ["r"], "answer": ["1"]}).write_parquet("rows.parquet")
    return lambda **keys: make_plan(parse_config(LEAST | keys))[0]


def by_stage(versions: Any) -> dict[str, int]:
    """Return how many of these (stage, version) there are of each stage."""
    return dict(Counter(stage for stage, _ in versions))
