"""The benchmark of the longest row that trains: how it searches, and all of it at toy scale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from dreamtune.train import micro_batches


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import longest_row

    monkeypatch.setattr(micro_batches, "forward_backward", micro_batches.forward_backward)  # it is put back afterwards
    return longest_row


def up_to(limit: int, tried: list[int]) -> Callable[[int], bool]:
    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= limit

    return fits


@pytest.mark.parametrize("limit", [0, 63, 64, 100, 1000, 5000, 40_000, 131_072, 10**6])
@pytest.mark.parametrize("guess", [0, 64, 4096, 131_072])
def test_the_search_ends_within_a_16th(benchmark: Any, limit: int, guess: int) -> None:
    tried: list[int] = []
    found = benchmark.longest_row(up_to(limit, tried), guess, most=131_072)
    assert found % 64 == 0 and found <= min(limit, 131_072)
    assert min(limit, 131_072) < found + max(64, found // 16) + 64
    assert len(set(tried)) == len(tried) <= 17


def test_a_good_guess_takes_few_probes(benchmark: Any) -> None:
    tried: list[int] = []
    benchmark.longest_row(up_to(32_000, tried), 31_000, most=131_072)
    assert len(tried) <= 3


def test_toy_scale(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pretended card takes rows of 20 tokens a GiB; on the last one a step fails that was rehearsed."""
    bench = benchmark.LongestRow(tmp_path, toy=True)
    train_rows = bench.train_rows

    def once_more(tokens: int) -> float:
        if tokens == 448:
            raise benchmark.UserError("out of GPU memory")
        return float(train_rows(tokens))

    bench.train_rows = once_more
    found = [bench.card(card) for card in (2, 8, 24)]
    assert [card["longest"] for card in found] == [0, 128, 384] and found[0]["trains"] == 0
    assert found[1]["shortest_that_did_not_fit"] == 192 and found[2]["shortest_that_did_not_fit"] == 448
    assert found[1]["tokens_per_s"] > 0 and found[1]["trains"] == min(128, found[1]["plan_allows"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["card"] for line in lines if line["what"] == "longest row"] == ["2 GB", "8 GB", "24 GB"]
    assert benchmark.table(found).splitlines()[2].startswith("| 2 GB | 1.0 | 0 | 0 |")
