"""The benchmark of loading in NF4 runs at toy scale, and finds equal bits."""

import json
import subprocess
from pathlib import Path

import pytest

import warm
from conftest import ROOT


@pytest.mark.slow
def test_toy_scale(tmp_path: Path) -> None:
    command = [warm.python(), str(ROOT / "benchmarks/nf4_cache.py"), "--work", str(tmp_path), "--toy", "--cold"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["from_the_cache"] for line in lines if "equal_to_the_bit" in line] == [False, True]
