"""Ring (d) on real rows: the whole DAG on GSM8K with Dream's tokenizer, kept small."""

import json
import subprocess
from pathlib import Path

import pytest

import warm
from conftest import ROOT, SHARED, needs_shared


@needs_shared
@pytest.mark.slow
def test_gsm8k_goes_all_the_way(tmp_path: Path) -> None:
    small = ["--steps", "2", "--smoke-rows", "8", "--full-rows", "8", "--prompts", "2"]
    small += ["--new-tokens", "3", "--draws", "1"]
    rows = ["--data", str(SHARED / "data/gsm8k_train.parquet"), "--tokenizer", str(SHARED / "tokenizer/dream")]
    command = [warm.python(), str(ROOT / "benchmarks/real_rows.py"), *rows, *small, "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["source_rows"] == 7473 == sum(counts["rows"].values()) and counts["dropped"] == {}
    assert counts["asked"] == counts["gradable"] == 2
