"""benchmarks/accuracy_speed.py: every way is a valid setting, and its table, picture and choice on made-up results."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import accuracy_speed


def line(way: str, speed: float, change: float) -> dict[str, Any]:
    gain = {"value": change, "low": change - 0.02, "high": change + 0.02}
    return {"way": way, "speed": speed, "accuracy": 0.7 + change, "change": gain, "passes": 9.0, "tokens_per_pass": 8.0}


LINES = [line("exact", 1.0, 0.0), line("dual", 8.0, -0.2), line("careful", 4.5, -0.02), line("slow", 2.0, 0.0)]


@pytest.mark.parametrize("way", accuracy_speed.WAYS)
def test_every_way_is_a_setting(way: str) -> None:
    arguments = argparse.Namespace(new_tokens=96, questions=5, batch_size=2)
    settings = accuracy_speed.settings_of(way, arguments)
    assert settings.max_new_tokens == 96 and settings.max_prompts == 5


def test_the_table_has_all_ways_from_slow_to_fast() -> None:
    rows = accuracy_speed.table(LINES).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == ["exact", "slow", "careful", "dual"]
    assert "| careful | 4.5 | 68.0 | -2.00 [-4.00, +0.00] |" in rows[4]


def test_the_picture_names_every_way() -> None:
    drawn = accuracy_speed.picture(LINES)
    assert drawn.startswith("<svg") and all(f">{entry['way']}<" in drawn for entry in LINES)


@pytest.mark.parametrize(("lines", "status"), [(LINES, 0), ([LINES[0], LINES[1], LINES[3]], 1)])
def test_check_wants_a_way_that_is_fast_and_accurate(
    lines: list[dict[str, Any]],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy_speed.py", "--work", str(tmp_path), "--check"])
    monkeypatch.setattr(accuracy_speed.generation_accuracy, "task", lambda *given: (tmp_path, tmp_path))
    monkeypatch.setattr(accuracy_speed, "compared", lambda *given: lines)
    assert accuracy_speed.main() == status
    assert ('"way": "careful"' in capsys.readouterr().out) == (status == 0)
