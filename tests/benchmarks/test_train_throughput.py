"""The benchmark of training at toy scale: it runs, and measures what it says."""

import json
import subprocess
from pathlib import Path

import pytest

import warm
from conftest import ROOT


@pytest.mark.slow
def test_toy_scale(tmp_path: Path) -> None:
    command = [warm.python(), str(ROOT / "benchmarks/train_throughput.py"), "--work", str(tmp_path), "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {line["what"]: line for line in lines}
    for rows in ("full rows", "GSM8K lengths"):
        assert found[rows]["gate"] and found[rows]["tokens_per_s"] > 0
        assert found[f"notebook, {rows}"]["tokens_per_s"] > 0
    # A padded row costs the notebook as much as a full one, so that fewer of its tokens count.
    assert found["notebook, GSM8K lengths"]["tokens_per_s"] < 0.5 * found["notebook, full rows"]["tokens_per_s"]
    assert found["1 x 1,024"]["plan"]["recompute_layers"] == 2
    assert "| full rows |" in done.stdout
