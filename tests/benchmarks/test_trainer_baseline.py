"""The comparison with Hugging Face's Trainer runs, and prints a ratio for each case."""

import subprocess
from pathlib import Path

import pytest

import warm
from conftest import ROOT

pytestmark = pytest.mark.slow


def test_toy_run_ends_with_a_ratio_per_case(tmp_path: Path) -> None:
    command = [warm.python(), str(ROOT / "benchmarks/trainer_baseline.py"), "--work", str(tmp_path), "--toy"]
    done = subprocess.run([*command, "--only", "GSM8K lengths", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    name, theirs, _, ours, _, ratio = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert name == "GSM8K lengths"
    both = [float(cell.replace(",", "")) for cell in (theirs, ours)]
    assert abs(both[1] / both[0] - float(ratio)) < 0.06
