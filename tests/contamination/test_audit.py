"""Shared questions and shared n-grams, counted on both sides."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.contamination.audit import audit_contamination
from dreamtune.contamination.benchmark import BenchmarkOverlap
from dreamtune.contamination.ngrams import EXCERPT, MAX_PAIRS, NgramIndex, Overlap, Pair, ngram_hashes
from dreamtune.contamination.templates import Templates
from dreamtune.contamination.words import read_words
from dreamtune.errors import UserError
from dreamtune.settings.benchmark import Benchmark
from rows import prepare

TRAIN = {
    "question": ["a b c d e f", "one two three", "nothing in common here", "x y z"],
    "reasoning": [""] * 4,
    "answer": ["g", "four", "five", "see p q r s t"],
}


def benchmark(tmp_path: Path, name: str, questions: list[Any], **columns: str) -> Benchmark:
    file = tmp_path / f"{name}.parquet"
    schema = {"question": pl.String, "answer": pl.String}
    pl.DataFrame({"question": questions, "answer": ["1"] * len(questions)}, schema=schema).write_parquet(file)
    return Benchmark(name=name, files=[str(file)], **columns)


def no_text(tokens: list[int]) -> str:
    """Stand in for a tokenizer that decodes responses."""
    return ""


def compared(against: Benchmark, rows: pl.DataFrame) -> BenchmarkOverlap:
    """Return a benchmark that was compared with rows (question, solution), whose numbers are their ids."""
    templates = Templates()
    found = BenchmarkOverlap(against, 13, templates)
    questions, solutions = rows["question"].to_list(), rows["solution"].to_list()
    places = templates.add(read_words(questions))
    templates.finish()
    found.expect(templates, places)
    found.look_up(templates.identities[places], questions, solutions, [""] * rows.height, np.arange(rows.height))
    return found


def audit(tmp_path: Path, questions: list[Any], ngram: int = 4, column: str = "question") -> dict[str, Any]:
    shards, _ = prepare(tmp_path, TRAIN)
    counts = audit_contamination(shards, benchmark(tmp_path, "b", questions, question=column), ngram, no_text, tmp_path)
    content: dict[str, Any] = json.loads((tmp_path / "contamination.json").read_text())
    assert counts == {name: content[name] for name in counts}
    return content


def test_exact_and_ngram_overlap_are_counted_on_both_sides(tmp_path: Path) -> None:
    questions = ["ONE  two three", "unrelated words stand in this", "z (B) c, D e! z", "q c d e f", None, "p Q r s"]
    found = audit(tmp_path, questions)
    assert found["train_rows"] == 4 and found["benchmark_rows"] == 6
    assert found["exact"] == {"train_rows": 1, "benchmark_rows": 1}
    one = "one two three"
    same = {"train": 1, "benchmark": 0, "text": one, "train_question": one, "benchmark_question": "ONE  two three"}
    assert found["exact_pairs"] == [same]
    # Row 0 shares four words with two benchmark questions, row 3 in its answer with another.
    assert found["overlap"] == {"train_rows": 2, "benchmark_rows": 3}
    assert found["overlap_pairs"] == [
        {
            **{"train": 0, "benchmark": 2, "text": "b c d e", "part": "question"},
            **{"train_question": "a b c d e f", "benchmark_question": "z (B) c, D e! z"},
        },
        {
            **{"train": 3, "benchmark": 5, "text": "p q r s", "part": "answer"},
            **{"train_question": "x y z", "benchmark_question": "p Q r s"},
        },
    ]


def test_one_word_fewer_is_no_overlap(tmp_path: Path) -> None:
    assert audit(tmp_path, ["b c d z", "p q r"])["overlap"] == {"train_rows": 0, "benchmark_rows": 0}


def test_a_copied_question_counts_every_row_that_has_it(tmp_path: Path) -> None:
    found = audit(tmp_path, ["x y z", "X Y Z", "other"])
    assert found["exact"] == {"train_rows": 1, "benchmark_rows": 2}


def test_bad_benchmarks_are_refused(tmp_path: Path) -> None:
    bad: list[tuple[list[Any], dict[str, str], str]] = [
        (["x"], {"question": "problem"}, "no column 'problem'"),
        (["x"], {"answer": "anser"}, r"no column 'anser' \(did you mean 'answer'"),
        ([None, "", " \n"], {}, "benchmark b: column 'question' holds no question in any of its 3 rows"),
        ([], {}, "no rows in"),
    ]
    shards, _ = prepare(tmp_path, TRAIN)
    for questions, columns, message in bad:
        spoilt = benchmark(tmp_path, "b", questions, **columns)
        with pytest.raises(UserError, match=message):
            audit_contamination(shards, spoilt, 4, no_text, tmp_path)
        with pytest.raises(UserError, match=message):
            prepare(tmp_path, TRAIN, contaminated="drop", benchmarks=[spoilt])


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
    assert 50 < overlap.look_up(texts, np.arange(500)).sum() < 200, "the kept share is still found"


def test_pairs_are_bounded_and_all_rows_counted() -> None:
    index = NgramIndex(2)
    index.add(["a b"], np.array([7]))
    overlap = Overlap(index)
    for start in range(0, 200, 40):
        assert overlap.look_up(["x a b y"] * 40, np.arange(start, start + 40)).all()
    assert overlap.rows == 200 and len(overlap.pairs) == MAX_PAIRS
    assert overlap.pairs[41] == Pair(41, 7, "a b", "x a b y")
    assert overlap.touched(["b a", "a b c"]).tolist() == [False, True]


def test_a_pair_shows_the_whole_run_of_words_shared_with_its_row_and_no_more() -> None:
    index = NgramIndex(3)
    index.add(["a b c d e", "e f g h"], np.array([4, 9]))
    overlap = Overlap(index)
    # From the second word on: five words of row 4, three of which row 9 continues, then a gap, then row 4 again.
    overlap.look_up(["z A b, c d e f g - x a b c", "short", "x e f g h"], np.arange(3))
    assert [(pair.row, pair.other, pair.words) for pair in overlap.pairs] == [(0, 4, "a b c d e"), (2, 9, "e f g h")]
    long = NgramIndex(2)
    words = [f"word{i}" for i in range(500)]
    long.add([" ".join(words)], np.array([0]))
    overlap = Overlap(long)
    overlap.look_up([" ".join(words)], np.array([0]), ["the question"])
    [pair] = overlap.pairs
    assert len(pair.words) == EXCERPT + 1 and pair.words.endswith("…") and pair.question == "the question"


COPY = "What is w4 w5 w6 w7 w8 today"  # rows of five words and more, against n-grams of four


def drop_rows(tmp_path: Path, benchmarks: list[Benchmark], **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = {
        "question": ["w9 w10 w11 w12 w13", COPY.upper(), "w4 W5, w6 w7 again", "w20 w21", "w22 w23", None],
        "reasoning": ["w5"] * 6,
        "answer": ["w14", "w15", "w16", "so w4 w5 w6 w7", "w17", "w18"],
    }
    out, counts = prepare(tmp_path, rows, ngram=4, benchmarks=benchmarks, **settings)
    return counts, json.loads((out / "audit.json").read_text())


def test_rows_that_overlap_a_benchmark_are_dropped_under_their_own_reason(tmp_path: Path) -> None:
    found = [benchmark(tmp_path, "one", ["other", COPY]), benchmark(tmp_path, "two", [None, "w22  W23", COPY])]
    for batch_rows in (2, 100):
        counts, audit = drop_rows(tmp_path, found, contaminated="drop", batch_rows=batch_rows)
        # The copy, the four shared words in a question, those in an answer, and the short question of `two`.
        assert counts["dropped"] == {"contaminated_by_benchmark": 4, "null_question": 1}
        assert counts["rows"]["train"] == 1
        one, two = (audit["contamination"]["benchmarks"][name] for name in ("one", "two"))
        assert (one["train_rows"], one["exact"]["train_rows"], one["overlap"]["train_rows"]) == (3, 1, 3)
        assert (two["train_rows"], two["exact"]["train_rows"], two["overlap"]["train_rows"]) == (4, 2, 3)
        assert [pair["train"] for pair in two["exact_pairs"]] == [1, 4] and two["exact_pairs"][1]["benchmark"] == 1
        assert [(pair["train"], pair["part"]) for pair in one["overlap_pairs"]] == [
            *((1, "question"), (2, "question"), (3, "answer"))
        ]
        assert "3 training rows overlap benchmark one (dropped)" in audit["warnings"]
    counts, audit = drop_rows(tmp_path, [], contaminated="drop")
    assert counts["dropped"] == {"null_question": 1} and audit["contamination"]["benchmarks"] == {}


def test_heldout_rows_may_overlap_a_benchmark(tmp_path: Path) -> None:
    """Only training on a benchmark's questions spoils it; asking them twice does not."""
    words = [f"w{4 + i}" for i in range(60)]
    rows = {"question": words, "reasoning": [""] * 60, "answer": ["w9"] * 60}
    settings: dict[str, Any] = {"split": {"validation": 0.2, "test": 0.3}, "contaminated": "drop"}
    _, whole = prepare(tmp_path, rows, **settings)
    _, counts = prepare(tmp_path, rows, **settings, benchmarks=[benchmark(tmp_path, "half", words[:30])])
    assert {name: counts["rows"][name] for name in ("validation", "test")} == {
        name: whole["rows"][name] for name in ("validation", "test")
    }
    lost = whole["rows"]["train"] - counts["rows"]["train"]
    assert 0 < lost < 30 and counts["dropped"] == {"contaminated_by_benchmark": lost}


@needs_shared
@pytest.mark.parametrize(
    ("training", "against", "exact", "overlap", "pair"),
    [
        (
            "gsm8k_train.parquet",
            Benchmark(name="gsm8k", files=[str(SHARED / "data/gsm8k_test.parquet")], answer="solution"),
            {"train_rows": 0, "benchmark_rows": 0},
            {"train_rows": 4, "benchmark_rows": 3},
            (20, 632, "bought stamps at the post office some of the stamps had a snowflake design"),
        ),
        (
            "s1k_questions_1000.parquet",
            Benchmark(name="math500", files=[str(SHARED / "data/math500.parquet")], question="problem"),
            {"train_rows": 2, "benchmark_rows": 2},
            {"train_rows": 40, "benchmark_rows": 9},
            (124, 285, "steve says to jon i am thinking of a polynomial whose roots are all positive integers"),
        ),
    ],
)
def test_what_real_rows_share_with_real_benchmarks(
    training: str, against: Benchmark, exact: dict[str, int], overlap: dict[str, int], pair: tuple[int, int, str]
) -> None:
    rows = pl.read_parquet(SHARED / "data" / training)
    found = compared(against, rows)
    counts, pairs = found.counts(), found.pairs()
    assert counts["exact"] == exact and counts["overlap"] == overlap and counts["kept_share"] == 1
    lengths = [len(each["text"]) for each in pairs["overlap_pairs"]]
    assert lengths == sorted(lengths, reverse=True)
    shown = {(each["train"], each["benchmark"]): each["text"] for each in pairs["overlap_pairs"]}
    assert shown[pair[:2]].startswith(pair[2])


@needs_shared
def test_four_of_s1ks_forty_overlaps_with_math_500_are_copied_problems() -> None:
    """The others are the phrase that asks for m + n, a few words of a formula, and drawings of a triangle."""
    rows = pl.read_parquet(SHARED / "data/s1k_questions_1000.parquet")
    found = compared(Benchmark(name="m", files=[str(SHARED / "data/math500.parquet")], question="problem"), rows)
    pairs = found.pairs()["overlap_pairs"]
    copied = {(each["train"], each["benchmark"]) for each in pairs if len(each["text"]) > 80}
    assert copied == {(81, 80), (124, 285), (181, 103), (498, 126)}
    assert sum("where m and n are relatively prime" in each["text"] for each in pairs) == 32
