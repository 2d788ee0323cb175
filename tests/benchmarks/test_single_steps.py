"""Single steps of worked problems as questions: what is taken, and what is left out."""

from typing import Any

import pytest

from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import single_steps

    return single_steps


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("She sold 48/2 = 24 clips, and 48+24 = $72.", [("48/2", "24"), ("48+24", "72")]),
        ("Twice: 48 / 2 = 24, 48/2=24", [("48/2", "24")]),
        ("7*2=15 is wrong", []),
        ("x2+3 = 5, 20% + 5 = 25, 1,200+5 = 1,205", []),  # other numbers than those that stand there
        ("2+3 = 5 - 1 = 4", [("5-1", "4")]),  # the first one goes on
        ("1/0 = 0, 08+1 = 9", []),
        ("0.5*3 = 1.5.", [("0.5*3", "1.5")]),
    ],
)
def test_a_right_calculation_becomes_one_question(benchmark: Any, text: str, rows: list[tuple[str, str]]) -> None:
    found = benchmark.single_steps([text]).drop("calculation").rows()
    assert found == [(f"How much is {given}?", f"{given} = {result}", result) for given, result in rows]


def test_the_same_numbers_and_signs_are_one_cluster(benchmark: Any) -> None:
    """Without clusters of its own the whole file, made from one template, would be one observation."""
    found = benchmark.single_steps(["7*5 = 35, 5*7 = 35, 7+5 = 12, 75/5 = 15, 57*1 = 57, 2-1+1 = 2"])
    assert found["calculation"].to_list() == ["* 5 7", "* 5 7", "+ 5 7", "/ 5 75", "* 1 57", "+ - 1 1 2"]
