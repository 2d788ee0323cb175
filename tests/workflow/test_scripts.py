"""Ring (c), the part all scripts share: each runs by hand, from any folder, and says how."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from conftest import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
RUNNABLE = sorted(path for path in SCRIPTS.glob("*.py") if path.name != "_src.py")
WITH_A_MODEL = {"train_adapter", "generate_answers", "evaluate_likelihood", "merge_adapter", "ask", "torchrun"}
WITH_A_MODEL |= {"convert_gguf"}
BY_HAND = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.stem)
def test_help_says_how_to_run_it_and_only_what_runs_a_model_imports_torch(script: Path, tmp_path: Path) -> None:
    with_a_model = script.stem in WITH_A_MODEL  # a warm Python has imported torch, which takes 6 s
    python = [warm.python()] if with_a_model else [sys.executable, "-X", "importtime"]
    command = [*python, str(script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=BY_HAND, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python workflow/scripts/{script.name}" in done.stdout
    assert list(tmp_path.iterdir()) == [], "--help does nothing else"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert with_a_model or ("argparse" in imported and "torch" not in imported)


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.stem)
def test_a_script_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("raise ValueError('Error building `model` serializer:\\n  KeyboardInterrupt: ')", 1),  # pydantic's
        ("try:\n    raise KeyboardInterrupt\nfinally:\n    raise OSError('closed')", 1),
    ],
    ids=["plain", "a library's text", "an error on the way out"],
)
def test_ctrl_c_is_one_line_at_any_moment_even_during_imports(raised: str, status: int, tmp_path: Path) -> None:
    script = tmp_path / "score_answers.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\nimport _src\n{raised}\n")
    done = subprocess.run([sys.executable, str(script)], env=BY_HAND, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr == "score_answers: stopped by SIGINT; start it again to go on\n"


@pytest.mark.parametrize("raised", ["MemoryError", "ImportError('x.so: failed to map segment from shared object')"])
def test_a_lack_of_memory_is_one_line_even_during_imports(raised: str, tmp_path: Path) -> None:
    script = tmp_path / "score_answers.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\nimport _src\nraise {raised}\n")
    done = subprocess.run([sys.executable, str(script)], env=BY_HAND, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("score_answers: out of memory (")
    assert done.stderr.count("\n") == 1
