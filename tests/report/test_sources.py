"""The report tells sources apart: counts, losses, likelihood, accuracy; explorer and audit name them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dreamtune.formats.reads import Reads
from dreamtune.formats.shards import COPY
from dreamtune.report.audit_view import overlap_tables
from dreamtune.report.explorer import choose_answers
from dreamtune.report.render import page
from dreamtune.report.sources import source_names, source_rows
from dreamtune.report.summary import build_summary
from dreamtune.settings.report import Comparison, ReportConfig
from report_fixture import write_reads


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Reads:
    """Two sources: the first 25 of 40 questions come from `books`, the others from `web`."""
    folders = write_reads(tmp_path_factory.mktemp("reads"), questions=40)
    counts = {"weight": 2.0, "row_limit": None, "where": None, "dropped": {"not_selected": 3}, "overlapping": 1}
    splits = {"train": 7, "validation": 0, "test": 25}
    sources: list[dict[str, Any]] = [
        {"name": "books", "first_id": 0, "rows": 35, "documents": 35, "splits": splits, "copies": 7, **counts},
        {"name": "web", "first_id": 25, "rows": 20, "documents": 20, "splits": splits, "copies": 0, **counts},
    ]
    (folders["shards"] / "shards.json").write_text(json.dumps({"sources": sources}))
    file = folders["full"] / "training.json"
    trained = [{"name": "books", "first_loss": 3.0, "last_loss": 1.5, "loss_tokens": 99}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sources": trained}))
    return Reads(folders)


def test_each_source_has_losses_likelihood_and_accuracy(reads: Reads) -> None:
    summary = build_summary(reads, Comparison(resamples=200), "demo")
    books, web = summary["sources"]
    assert (books["nll"]["base"]["n"], web["nll"]["base"]["n"]) == (25, 15)
    assert (books["accuracy"]["base"]["n"], web["accuracy"]["base"]["n"]) == (25, 15)
    assert (books["first_loss"], books["last_loss"], web["first_loss"]) == (3.0, 1.5, None)
    won = [source["accuracy"]["gain"]["won"] for source in summary["sources"]]
    assert sum(won) == summary["accuracy"]["gain"]["won"]
    first, second = source_rows(summary)
    assert first[:6] == ("books", "2", "35", "14 (7 different)", "25", "not_selected 3") and second[3] == "7"
    shown = page(ReportConfig(), "demo", reads, summary)
    assert "By source" in shown and "question 0 of books" in shown


def test_explorer_and_audit_name_the_source(reads: Reads) -> None:
    assert source_names(reads, [24, 25, COPY + 3, -1]) == ["books", "web", "books", ""]
    named = {e["example_id"]: e["source"] for e in choose_answers(reads, 40)}
    assert named[-1] == "" and named[3] == "books" and named[30] == "web"
    pair = {"train": 7, "heldout": 30, "text": "", "train_question": "", "heldout_question": ""}
    audit = {"contamination": {"pairs": [pair]}}
    [table] = overlap_tables(audit, {}, lambda ids: source_names(reads, ids))
    assert table["rows"][0][0] == "7 (books) / 30 (web)"


def test_without_sources_nothing_is_said(tmp_path: Path) -> None:
    found = Reads(write_reads(tmp_path, questions=12))
    summary = build_summary(found, Comparison(resamples=100), "demo")
    assert summary["sources"] == [] and source_rows(summary) == []
    assert "By source" not in page(ReportConfig(), "demo", found, summary)
