"""Ring (c), the part all scripts share: each runs by hand, from any folder, and says how."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
RUNNABLE = sorted(path for path in SCRIPTS.glob("*.py") if path.name != "_src.py")
WITH_A_MODEL = {"train_adapter", "generate_answers", "evaluate_likelihood", "merge_adapter", "torchrun"}
BY_HAND = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def python(*arguments: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=BY_HAND, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.stem)
def test_help_says_how_to_run_it(script: Path, tmp_path: Path) -> None:
    assert f"python workflow/scripts/{script.name}" in python(str(script), "--help", folder=tmp_path)
    assert list(tmp_path.iterdir()) == [], "--help does nothing else"


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.stem)
def test_only_what_runs_a_model_imports_torch(script: Path, tmp_path: Path) -> None:
    code = f"import sys, runpy; sys.path.insert(0, {str(SCRIPTS)!r}); runpy.run_path({str(script)!r})"
    loaded = python("-c", f"{code}; print('torch' in sys.modules)", folder=tmp_path)
    assert loaded.strip() == str(script.stem in WITH_A_MODEL)


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.stem)
def test_a_script_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 40
