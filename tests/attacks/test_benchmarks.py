"""What benchmarks and tools write outside of results/: killed at each operation on a file, they leave it whole.

A file that was there before is the old one or the new one, and what a benchmark made for itself is not taken for made
unless it is.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import warm
from attacks.targets import STRUCK
from conftest import ROOT

PARTS = ("src", "benchmarks", "workflow", "docs/grading.md", "config/schema.json", "tests/fixtures/dream_7b")
PAIRS = [{"completion": f"\\boxed{{{n}}}", "solution": str(n), "right": True} for n in range(3)]
# Script, arguments, and the file or folder that it writes; each is relative to a copy of the project.
WRITERS = {
    "write_schema": ("workflow/scripts/write_schema.py", (), "config/schema.json"),
    "grading_agreement": ("benchmarks/grading_agreement.py", ("published",), "docs/grading.md"),
    "grading_pairs": ("benchmarks/grading_pairs.py", ("pairs.jsonl", "--grades", "grades.txt"), "grades.txt"),
    "load_memory": ("benchmarks/load_memory.py", ("--toy", "--work", "work"), "work/model"),
}
INSTANTS = {"write_schema": 12, "grading_agreement": 3, "grading_pairs": 3, "load_memory": 5}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for part in PARTS:
        source, target = ROOT / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    (tmp_path / "docs/grading_judgements.csv").write_text("key,judgement,reason,why\n")
    (tmp_path / "published").mkdir()
    answers = {"question": ["1 + 1?"], "completion": ["\\boxed{2}"], "ground_truth": ["2"], "published_correct": [True]}
    pl.DataFrame(answers).write_parquet(tmp_path / "published/gsm8k.parquet")
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in PAIRS))
    (tmp_path / "grades.txt").write_text("the grades of an earlier run\n")
    return tmp_path


def run(copy: Path, name: str, *strike: str) -> tuple[int, str]:
    script, arguments, _ = WRITERS[name]
    command = [warm.python(), str(STRUCK), *strike, str(copy / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def content(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of each file in a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_the_instants_are_all_known(name: str, copy: Path) -> None:
    status, said = run(copy, name, "nothing", "0")
    assert (status, int(said.split()[-1])) == (0, INSTANTS[name]), said


@pytest.mark.parametrize(("name", "instant"), [(n, i) for n, count in INSTANTS.items() for i in range(1, count + 1)])
def test_killed_before_an_operation_on_a_file(name: str, instant: int, copy: Path, record_property: Any) -> None:
    written = copy / WRITERS[name][2]
    before = content(written)
    status, said = run(copy, name, "SIGKILL", str(instant))
    record_property("struck", f"{name}: SIGKILL")
    assert status < 0, said
    killed = content(written)
    assert run(copy, name, "nothing", "0")[0] == 0
    assert killed in (before, content(written))
    left = [path for path in written.parent.iterdir() if path.name.startswith(".")]
    assert left == []
