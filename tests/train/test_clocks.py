"""Processes that train all weights write their checkpoints together, whatever their clocks say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from conftest import ROOT
from tiny import make_model, make_shards

# Train; for the process that is named, an hour passes with every look at the clock.
TRAIN = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
sys.path[:0] = sys.argv[1:3]
from dreamtune.train import steps
from dreamtune.train import train as training
from dreamtune.settings.model import ModelConfig
from tiny import settings

hours = iter(range(10_000))
if os.environ["RANK"] == sys.argv[3]:
    steps.time = SimpleNamespace(monotonic=lambda: 3600.0 * next(hours))
base = ModelConfig(path="base", quantization="none", dtype="float32", device="cpu", threads=1)
training.train_adapter(
    settings(finetuning="full", keep_checkpoints=99), base, Path("shards"), Path("out"), Path("work")
)
"""


@pytest.mark.parametrize(("fast", "early"), [("0", True), ("1", False)])
@pytest.mark.slow
def test_the_first_process_says_when(fast: str, early: bool, tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    make_shards(tmp_path / "shards")
    for name in ("out", "work", "scripts"):
        (tmp_path / name).mkdir()
    (tmp_path / "scripts/train.py").write_text(TRAIN)  # of a folder with this name, warm Pythons run what there is
    launcher = [sys.executable, ROOT / "workflow/scripts/torchrun.py", "--standalone", "--nproc-per-node", "2"]
    paths = [ROOT / "src", ROOT / "tests", fast]
    environment = os.environ | {"PYTHON_EXEC": warm.python()}
    command = [*launcher, "scripts/train.py", *paths]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "work/checkpoints").iterdir())
    assert (steps == list(range(1, steps[-1] + 1))) == early and len(steps) > 1, steps
