"""Shared questions and shared n-grams, counted on both sides."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dreamtune.contamination import audit_contamination
from dreamtune.errors import UserError
from dreamtune.ngrams import MAX_PAIRS, NgramIndex, Overlap, ngram_hashes
from dreamtune.settings.evaluate import Benchmark
from rows import prepare

TRAIN = {
    "question": ["a b c d e f", "one two three", "nothing in common here", "x y z"],
    "reasoning": [""] * 4,
    "answer": ["g", "four", "five", "see p q r s t"],
}


def audit(tmp_path: Path, questions: list[Any], ngram: int = 4, column: str = "question") -> dict[str, Any]:
    shards, _ = prepare(tmp_path, TRAIN)
    file = tmp_path / "benchmark.parquet"
    pl.DataFrame({"question": questions}, schema={"question": pl.String}).write_parquet(file)
    benchmark = Benchmark(name="b", files=[str(file)], question=column)
    counts = audit_contamination(shards, benchmark, ngram, tmp_path)
    content: dict[str, Any] = json.loads((tmp_path / "contamination.json").read_text())
    assert counts == {name: content[name] for name in counts}
    return content


def test_exact_and_ngram_overlap_are_counted_on_both_sides(tmp_path: Path) -> None:
    questions = ["ONE  two three", "unrelated words stand in this", "z (B) c, D e! z", "q c d e f", None, "p Q r s"]
    found = audit(tmp_path, questions)
    assert found["train_rows"] == 4 and found["benchmark_rows"] == 6
    assert found["exact"] == {"train_rows": 1, "benchmark_rows": 1}
    assert found["exact_pairs"] == [{"train": 1, "text": "one two three"}]
    # Row 0 shares four words with two benchmark questions, row 3 in its answer with another.
    assert found["overlap"] == {"train_rows": 2, "benchmark_rows": 3}
    assert {(pair["train"], pair["benchmark"]) for pair in found["overlap_pairs"]} == {(0, 2), (3, 5)}


def test_one_word_fewer_is_no_overlap(tmp_path: Path) -> None:
    assert audit(tmp_path, ["b c d z", "p q r"])["overlap"] == {"train_rows": 0, "benchmark_rows": 0}


def test_a_copied_question_counts_every_row_that_has_it(tmp_path: Path) -> None:
    found = audit(tmp_path, ["x y z", "X Y Z", "other"])
    assert found["exact"] == {"train_rows": 1, "benchmark_rows": 2}


def test_bad_benchmarks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'problem'"):
        audit(tmp_path, ["x"], column="problem")
    with pytest.raises(UserError, match="no question"):
        audit(tmp_path, [None, ""])


def test_ngrams_do_not_cross_texts_and_ignore_case_and_punctuation() -> None:
    hashes, text_of = ngram_hashes(["a b c", "", "C d", "A, (b)"], 2)
    assert text_of.tolist() == [0, 0, 2, 3]
    assert hashes[0] == hashes[3] and len(set(hashes.tolist())) == 3
    assert ngram_hashes([], 2)[0].size == 0 and ngram_hashes(["a"], 2)[0].size == 0


def test_the_index_keeps_to_its_limit_and_chooses_the_same_ngrams_in_any_order() -> None:
    texts = [f"w{i} w{i + 1} w{i + 2}" for i in range(500)]
    forward, backward = NgramIndex(2, limit=100), NgramIndex(2, limit=100)
    for i in range(500):
        forward.add([texts[i]], np.array([i]))
        if i % 50 == 0:
            forward.merge()
    backward.add(texts[::-1], np.arange(500)[::-1])
    forward.merge()
    backward.merge()
    assert np.array_equal(forward.hashes, backward.hashes) and 0 < len(forward.hashes) <= 100
    assert forward.kept_share == backward.kept_share == 0.125
    overlap = Overlap(forward)
    assert 50 < overlap.check(texts, np.arange(500)).sum() < 200, "the kept share is still found"


def test_pairs_are_bounded_and_all_rows_counted() -> None:
    index = NgramIndex(2)
    index.add(["a b"], np.array([7]))
    overlap = Overlap(index)
    for start in range(0, 200, 40):
        assert overlap.check(["x a b y"] * 40, np.arange(start, start + 40)).all()
    assert overlap.rows == 200 and len(overlap.pairs) == MAX_PAIRS
    assert overlap.pairs[41] == (41, 7, "x a b y")
    assert overlap.touched(["b a", "a b c"]).tolist() == [False, True]
