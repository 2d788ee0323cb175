"""The benchmark of loading runs at toy scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
def test_toy_scale(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/load_memory.py"), "--work", str(tmp_path), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["largest_file_gib"] < found["all_files_gib"] and found["peak_above_gib"]["before"] > 0
