"""Questions that differ in names and numbers only share a template, whatever the batches and in whatever notation."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conftest import ROOT, SHARED, needs_shared
from dreamtune.contamination import templates
from dreamtune.contamination.templates import Templates, first_members, shingles, similarity, skeletons_of
from dreamtune.contamination.words import NAME, NUMBER, read_words

DEMO = ROOT / "resources/tiny-dream/rows.parquet"


def found(questions: list[str], batch: int = 1_000) -> Templates:
    made = Templates()
    for start in range(0, len(questions), batch):
        made.add(read_words(questions[start : start + batch]))
    made.finish()
    return made


def test_names_numbers_and_pronouns_fill_slots_and_words_do_not() -> None:
    questions = [
        "Nora has 62 shells. She sells 25 and drops 24. How many shells now?",
        "Tom has 7 shells. He sells 3 and drops two. How many shells now?",
        "Captain Mary Lee has 1,000 shells. She sells 3.50 and drops 2. How many shells now?",
        "Which of the two numbers 62 and 25 is the larger one, if they are read backwards?",
    ]
    made = found(questions)
    assert made.numbers.tolist() == [0, 0, 0, 1] and len(set(made.identities.tolist())) == 4


@pytest.mark.parametrize(
    "forms",
    [
        ["1,000", "1000", "1{,}000", "1000.0", r"1\,000", "１０００"],
        ["3", "three", "Three", "3.00"],
        ["0.5", "0.50"],
    ],
)
def test_a_number_is_the_same_however_it_is_written(forms: list[str]) -> None:
    words = read_words(forms)
    assert words.kinds.tolist() == [NUMBER] * len(forms) and len(set(words.hashes.tolist())) == 1


def test_a_name_has_a_capital_and_is_no_common_word() -> None:
    words = read_words(["Find ABC, then tell Mary. How many did Will see on Monday, if I may ask?"])
    assert int((words.kinds == NAME).sum()) == 4  # ABC, Mary, Will, Monday


def test_batches_and_other_questions_change_no_template() -> None:
    questions = pl.read_parquet(DEMO)["question"].to_list()
    whole = found(questions)
    small = found(questions, batch=7)
    assert np.array_equal(whole.numbers, small.numbers) and np.array_equal(whole.identities, small.identities)


def test_the_demo_has_91_templates_and_hashing_misses_none() -> None:
    """All pairs of skeletons, compared exactly, are linked in the same way as the pairs that hashing proposes."""
    questions = pl.read_parquet(DEMO)["question"].to_list()
    made = found(questions)
    counts = Counter(made.numbers.tolist())
    assert len(counts) == 91 and counts.most_common(1)[0][1] == 198
    skeletons = skeletons_of(read_words(questions))
    hashes, starts = shingles(skeletons.hashes, skeletons.starts())
    sets = list({frozenset(hashes[a:b].tolist()): None for a, b in pairwise(starts)})
    groups = list(range(len(sets)))
    for i in range(len(sets)):
        for j in range(i):
            if groups[i] != groups[j] and similarity(set(sets[i]), set(sets[j])) >= templates.SAME:
                groups = [groups[j] if group == groups[i] else group for group in groups]
    assert len(set(groups)) == 91


def test_a_question_without_words_is_alone_and_a_first_member_stands_for_its_template() -> None:
    made = found(["", "?!", "Why is it so?", " ", "Why is it so?"])
    assert made.numbers.tolist() == [0, 1, 2, 3, 2] and first_members(made.numbers).tolist() == [0, 1, 2, 3, 2]
    assert found(["", "?"]).numbers.tolist() == [0, 1]
    empty = found([""])
    assert empty.numbers.tolist() == [0] and empty.identities.shape == (1,)


def test_a_language_without_spaces_has_templates_too() -> None:
    chinese = [
        "小明有3个苹果，又买了5个，一共有几个苹果？",
        "小明有12个苹果，又买了7个，一共有几个苹果？",
        "为什么天是蓝色的？",
    ]
    assert found(chinese).numbers.tolist() == [0, 0, 1]


@needs_shared
@pytest.mark.parametrize(
    ("file", "column", "rows", "count"),
    [
        ("gsm8k_train.parquet", "question", 7_473, 7_419),
        ("gsm8k_test.parquet", "question", 1_319, 1_318),
        ("math500.parquet", "problem", 500, 495),
        ("s1k_questions_1000.parquet", "question", 1_000, 973),
    ],
)
def test_real_questions_are_hardly_ever_alike(file: str, column: str, rows: int, count: int) -> None:
    questions = pl.read_parquet(Path(SHARED) / "data" / file)[column].to_list()
    numbers = found(questions).numbers
    assert len(numbers) == rows and len(set(numbers.tolist())) == count
    assert max(Counter(numbers.tolist()).values()) <= 8, "no chain of similar questions swallows others"
