"""The measurement of everything: each command is one that its benchmark takes."""

import ast
import sys
from pathlib import Path

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import measure

GIVEN = {name: f"/{name}" for name in ("work", "data", "tokenizer", "smollm2", "gsm8k")}


@pytest.mark.parametrize("group", measure.GROUPS)
def test_benchmarks_take_what_they_are_given(group: str) -> None:
    for _, program, *words in measure.commands(group, GIVEN, times=2):
        text = Path(program).read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--")), program
        texts = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        other = (ROOT / "benchmarks/train_throughput.py").read_text()
        named = words[words.index("--only") + 1 :] if "--only" in words else []
        assert set(named) <= texts, program
        rows = words[words.index("--rows") + 1 :][:1] if "--rows" in words else []
        assert all(f'"{row}"' in other for row in rows), program


def test_ratios_are_repeated_and_what_is_not_given_is_named() -> None:
    assert len(measure.commands("generation", GIVEN, times=3)) == 3
    assert len(measure.commands("workflow", GIVEN, times=3)) == 1
    assert measure.missing(measure.GROUPS["quality"], {"work", "gsm8k"}) == ["smollm2"]


def test_a_benchmark_that_fails_stops_no_other(tmp_path: Path) -> None:
    said = "import os; print('| card |', os.environ['CUDA_VISIBLE_DEVICES'], '|')"
    todo = [[sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", said]]
    assert not measure.measured(todo, tmp_path / "log", card=1)
    lines = measure.tables(tmp_path / "log").splitlines()
    assert lines[1].startswith("exit status 3 ") and "| card | 1 |" in lines and lines[-1].startswith("exit status 0 ")
    assert measure.measured(todo[1:], tmp_path / "log", card=0)


def test_a_dry_run_says_what_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["measure.py", "--work", "w", "--out", "o", "--dry-run"])
    assert measure.main() == 0
    said = capsys.readouterr()
    assert "workflow: left out, it needs --data, --tokenizer" in said.err
    assert said.out.count("generate_throughput.py") == 3 and not list(tmp_path.iterdir())
