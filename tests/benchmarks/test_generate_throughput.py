"""Ring (c): the benchmark of generation runs at toy scale, makes every token and can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import generate_throughput


def run(work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [warm.python(), str(ROOT / "benchmarks/generate_throughput.py"), "--work", str(work), "--toy", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_toy_run_times_every_way(tmp_path: Path) -> None:
    small = ["--prompt-tokens", "8", "--new-tokens", "32", "--batch", "2", "--baseline-steps", "4"]
    done = run(tmp_path, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rates = {line["name"]: line for line in lines if line["what"] == "rate"}
    assert list(rates)[:8] == ["official", "nf4", "notebook", "exact", "cached-1", "cached-N", "double-1", "double-N"]
    assert set(rates) == {*generate_throughput.BASELINES, *generate_throughput.OURS}
    assert rates["exact"]["tokens"] == rates["double-1"]["tokens"] == 32 and rates["cached-N"]["tokens"] == 64
    assert rates["double-1"]["passes"] <= 16 < rates["cached-1"]["passes"] <= 32
    assert all(rate["tokens_per_s"] > 0 for rate in rates.values())
    assert sum(line["what"] == "ratio" for line in lines) == len(generate_throughput.RATIOS)
    only = run(tmp_path, *small, "--ways", "official", "nf4-double-1")
    assert [line["name"] for line in map(json.loads, only.stdout.splitlines()[1:3])] == ["official", "nf4-double-1"]
    # At toy scale a pass costs what calling it costs: no cache makes two rows fifty times faster.
    assert run(tmp_path, *small, "--check").returncode == 1
