"""benchmarks/verdict_statistics.py and cluster_statistics.py: every table at toy scale, and the pairs of a real run."""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from conftest import FIXTURES, ROOT
from report_fixture import write_reads

sys.path.append(str(ROOT / "benchmarks"))
import _tables
import cluster_statistics as clusters
import verdict_statistics as verdict

Rows = Callable[[], int]
PAIRS = FIXTURES / "demo_pairs.csv"
VERDICT = {
    verdict.likelihood_variance: 3,
    verdict.nll_coverage: 12,
    verdict.accuracy_coverage: 9,
    verdict.samples_coverage: 3,
    verdict.false_alarms: 6,
    verdict.power: 11,
}
CLUSTERS = {
    clusters.methods: 14,
    clusters.accuracy_nulls: 21,
    clusters.nll_nulls: 28,
    clusters.skewed_nulls: 12,
    clusters.power: 23,
}


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Return a function that counts the rows of what was printed; at toy scale most bounds are broken."""
    monkeypatch.setattr(_tables, "broken", [])
    return lambda: sum(line.startswith("| ") for line in capsys.readouterr().out.splitlines()) - 1


@pytest.mark.slow
@pytest.mark.parametrize("part", VERDICT, ids=lambda part: part.__name__)
def test_tables_of_the_verdict_at_toy_scale(part: Callable[[int, pl.DataFrame], None], rows: Rows) -> None:
    part(2, pl.read_csv(PAIRS))
    assert rows() == VERDICT[part]


@pytest.mark.slow
@pytest.mark.parametrize("part", CLUSTERS, ids=lambda part: part.__name__)
def test_tables_of_similar_questions_at_toy_scale(part: Callable[[int], None], rows: Rows) -> None:
    part(2)
    assert rows() == CLUSTERS[part]


def test_the_pairs_of_a_finished_experiment_are_those_of_the_fixture(tmp_path: Path) -> None:
    for key, folder in write_reads(tmp_path / "made", questions=6).items():
        (tmp_path / key.replace("/", "-")).symlink_to(folder)
    pairs = verdict.read_pairs(tmp_path)
    assert set(pl.read_csv(PAIRS).columns) <= set(pairs.columns)
    assert pairs.height == 6 and pairs["correct_tuned"].sum() > pairs["correct_base"].sum()
