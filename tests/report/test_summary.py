"""summary.json: what several samples show, the settings beside their numbers, and models that have collapsed."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.formats.reads import Reads
from dreamtune.report.comparison_view import comparison_tables
from dreamtune.report.summary import build_summary
from dreamtune.scoring.score import score_answers
from dreamtune.settings.report import Comparison
from dreamtune.settings.score import ScoreConfig
from report_fixture import write_reads

FAST = Comparison(resamples=300)


def summary(reads: dict[str, Path]) -> dict[str, Any]:
    return build_summary(Reads(reads), FAST, "demo")


def spoil(reads: dict[str, Path], who: str, setting: str = "greedy") -> None:
    """Turn every answer of a model into a loop, and grade it again."""
    key = f"test/{setting}/{who}"
    file = reads[f"answers/{key}"] / "answers.parquet"
    loop = pl.lit([2, 7] * 60, dtype=pl.List(pl.Int64))
    pl.read_parquet(file).with_columns(completion=pl.lit("2 × " * 60), tokens=loop).write_parquet(file)
    score_answers(ScoreConfig(), file.parent, reads[f"scores/{key}"])


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return summary(write_reads(tmp_path_factory.mktemp("reads"), questions=40, base=0.4, tuned=0.9, samples=4))


def test_several_samples_have_pass_at_k_and_a_vote(sampled: dict[str, Any]) -> None:
    block = sampled["comparisons"]["test/sampled"]
    assert list(block["pass_at_k"]) == ["1", "2", "4"]
    assert block["pass_at_k"]["1"]["tuned"] == block["accuracy"]["tuned"]
    assert block["pass_at_k"]["4"]["gain"]["p"] is not None and block["majority"]["gain"]["test"] == "exact McNemar"
    greedy = sampled["comparisons"]["test/greedy"]
    assert list(greedy["pass_at_k"]) == ["1"] and greedy["majority"] is None
    assert sampled["warnings"] == []


def test_a_collapse_stands_in_the_reasons_and_the_warnings(tmp_path: Path) -> None:
    reads = write_reads(tmp_path, questions=20, samples=2)
    spoil(reads, "tuned")
    spoil(reads, "base", "sampled")
    said = summary(reads)
    assert "the tuned model's answers collapsed: 100 % loop, 100 % are the same text" in said["reasons"]
    assert said["warnings"] == [
        "test/greedy, tuned: the answers collapsed: 100 % loop, 100 % are the same text",
        "test/sampled, base: the answers collapsed: 100 % loop, 100 % are the same text",
    ]


def test_a_base_that_collapsed_is_no_reason(tmp_path: Path) -> None:
    reads = write_reads(tmp_path, questions=20)
    spoil(reads, "base")
    said = summary(reads)
    assert not any("collapsed" in reason for reason in said["reasons"]) and len(said["warnings"]) == 1


def test_undecided_questions_are_counted_and_left_out(tmp_path: Path) -> None:
    reads = write_reads(tmp_path, questions=12)
    file = reads["scores/test/greedy/base"] / "scores.parquet"
    row = pl.col("example_id") == 3
    undecided = pl.read_parquet(file).with_columns(correct=pl.when(~row).then("correct"), undecided=row)
    undecided.write_parquet(file)
    said = summary(reads)
    counted = {name: (said[name]["questions"], said[name]["undecided"]) for name in ("accuracy", "strict", "lenient")}
    assert counted == {"accuracy": (11, 1), "strict": (12, 0), "lenient": (12, 0)}
    assert "of 11 held-out questions correct, 1 left out as undecided" in said["sentence"]
    assert comparison_tables(said)[0]["undecided"] == 1


def test_settings_stand_beside_their_numbers_and_must_agree(tmp_path: Path) -> None:
    reads = write_reads(tmp_path, questions=12)
    sampled = "test/greedy, the answers are sampled at temperature 0.7, though their setting is called greedy"
    different = "test/greedy, base and tuned were generated with different settings"
    for base, said in ((0.0, [sampled, different]), (0.7, [sampled])):
        for who, temperature in (("base", base), ("tuned", 0.7)):
            file = reads[f"answers/test/greedy/{who}"] / "generation.json"
            file.write_text(f'{{"settings": {{"temperature": {temperature}}}}}')
        found = summary(reads)
        assert found["comparisons"]["test/greedy"]["settings"] == {"temperature": 0.7}
        assert found["warnings"] == said
