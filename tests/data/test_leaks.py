"""What gives the answer away is named by prepare_shards, before anything trains; clusters are carried in the shards."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dreamtune.contamination.questions import question_hash
from dreamtune.data.survey import SPLIT_NAMES, assign
from dreamtune.errors import UserError
from dreamtune.formats.questions import QUESTIONS
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import Split
from rows import prepare, read, splits_of

SPLIT = {"validation": 0.0, "test": 0.3}
NAMES = ("Nora", "Tom", "Mia", "Ben", "Eva", "Leo", "Lily", "Max", "Zoe", "Sam", "Ana", "Omar")
STORY = "{name} sells {n} old lamps at the market. The other traders leave early. How many lamps are sold by {name}?"


def split_of(question: str) -> str:
    number = int(assign(np.array([question_hash(question)], np.uint64), Split(**SPLIT))[0])
    return str(SPLIT_NAMES[number])


def story(split: str, number: int) -> str:
    """Return a question of the template STORY with this number, under a name that puts it into the split."""
    return next(q for q in (STORY.format(name=name, n=number) for name in NAMES) if split_of(q) == split)


def edited(question: str, split: str) -> str:
    """Return the question with one word changed, in the split."""
    words = ("fine", "nice", "used", "tall", "red", "odd", "new", "big", "bad", "good")
    return next(q for word in words if split_of(q := question.replace("old", word)) == split)


def placed(question: str, split: str) -> str:
    """Return the question with words before it that put it into the split."""
    return next(q for i in count() if split_of(q := f"{'So ' * i}{question}") == split)


def rows_of(questions: list[str], **others: list[str]) -> dict[str, list[Any]]:
    return {"question": questions, "reasoning": [""] * len(questions), "answer": ["w9"] * len(questions)} | others


def audit_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return content


def test_a_near_copy_over_the_split_is_named_and_dropped_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = story("test", 41)
    rows = rows_of([story("train", 7), asked, edited(asked, "train"), "Why is the sky so blue?"])
    assert [split_of(q) for q in rows["question"][1:3]] == ["test", "train"]
    out, counts = prepare(tmp_path, rows, split=SPLIT, ngram=30)
    said = "1 training rows nearly repeat 1 held-out questions with the same answer (example ids 2 of 1; kept)"
    assert said in counts["warnings"] and f"warning: {said}\n" in capsys.readouterr().err
    copies = audit_of(out)["contamination"]["copies"]
    assert (copies["train_rows"], copies["heldout_rows"], copies["other_answer"]) == (1, 1, 0)
    [pair] = copies["pairs"]
    assert (pair["train_question"], pair["heldout_question"]) == (rows["question"][2], asked)
    asked_rows = pl.read_parquet(out / "questions.parquet")
    assert asked_rows.schema == QUESTIONS
    assert asked_rows.filter(pl.col("example_id") == 1).row(0) == (1, "test", True, 2, False, None)
    out, counts = prepare(tmp_path, rows, split=SPLIT, ngram=30, contaminated="drop")
    assert counts["dropped"] == {"contaminated": 1} and said.replace("kept", "dropped") in counts["warnings"]
    assert pl.read_parquet(out / "questions.parquet")["copy_of"].null_count() == asked_rows.height


def test_the_same_text_with_another_answer_is_named_apart(tmp_path: Path) -> None:
    asked = story("test", 41)
    forms = (asked.replace("41", f"41.{'0' * zeros}") for zeros in count(1))
    rows = rows_of([asked, next(q for q in forms if split_of(q) == "train")], answer=["41", "14"])
    out, counts = prepare(tmp_path, rows, split=SPLIT)
    assert any("another answer (example ids 1 of 0)" in warning for warning in counts["warnings"])
    assert audit_of(out)["contamination"]["copies"]["train_rows"] == 0


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_a_question_that_holds_its_answer_is_named(tmp_path: Path, policy: str) -> None:
    reasoning = "The lamps are counted one by one, and there are 41 of them in the end."
    plain, told = story("train", 5), [placed(f"{story('train', 41)} 41", split) for split in ("train", "test")]
    shown = placed(f"Hint: {reasoning} {story('train', 8)}", "train")
    rows = rows_of([plain, *told, shown], answer=["5", "41", "41", "8"], reasoning=["", "", "", reasoning])
    out, counts = prepare(tmp_path, rows, split=SPLIT, gives_away=policy)
    assert counts["dropped"] == ({"gives_answer_away": 2} if policy == "drop" else {})
    [said] = [warning for warning in counts["warnings"] if "give their answer away" in warning]
    assert "2 end in their answer (example ids 1, 2); 1 hold their reasoning (example ids 3)" in said
    fate = "dropped" if policy == "drop" else "kept"
    assert f"2 of them are training rows ({fate}), 1 are test questions (left out" in said
    found = audit_of(out)["gives_away"]
    assert (found["train_rows"], found["validation_rows"], found["test_rows"], found["policy"]) == (2, 0, 1, policy)
    questions = pl.read_parquet(out / "questions.parquet")
    assert questions.select("example_id", "gives_away").rows() == [(2, "ends_in_answer")]
    assert [row["example_id"] for row in read(out, "test")] == [2], "a test question stays, to be left out beside"


def test_a_column_joined_with_the_answers_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    questions = [f"{story('train', n)} {n}" for n in range(10, 20)]
    with pytest.raises(UserError, match=r"none of the 10 rows is left for training .*gives_answer_away 10"):
        prepare(tmp_path, rows_of(questions, answer=[str(n) for n in range(10, 20)]))


def test_reasonings_are_compared_with_heldout_questions(tmp_path: Path) -> None:
    asked = story("test", 41)
    plain = [placed(question, "train") for question in ("Why is the sky blue?", "Where does the wind come from?")]
    rows = rows_of([asked, *plain], reasoning=["", f"Recall: {asked} It was 41.", "I see."])
    out, counts = prepare(tmp_path, rows, split=SPLIT, ngram=10)
    found = audit_of(out)["contamination"]
    assert found["train_rows"] == 1 and found["test_rows"] == 1
    assert [(pair["train"], pair["heldout"], pair["part"]) for pair in found["pairs"]] == [(1, 0, "reasoning")]
    assert found["restated"] == {"rows": 1, "examples": [0]}
    assert any("1 held-out questions stand as a whole" in warning for warning in counts["warnings"])
    assert pl.read_parquet(out / "questions.parquet")["restated"].to_list() == [True]
    _, counts = prepare(tmp_path, rows, split=SPLIT, ngram=10, contaminated="drop")
    assert counts["dropped"] == {"contaminated": 1}


def test_a_cluster_is_the_first_row_of_a_template_in_its_split(tmp_path: Path) -> None:
    other = "Why is the {} so blue today?"
    words = [word for word in ("sky", "sea", "ink", "jay", "gem", "lake") if split_of(other.format(word)) == "test"]
    questions = [story(split, n) for n, split in enumerate(["train", "test", "train", "test", "train"], 20)]
    questions += [other.format(words[0])]
    for batch_rows in (1, 100):
        out, _ = prepare(tmp_path, rows_of(questions), split=SPLIT, batch_rows=batch_rows)
        clusters = {name: {r["example_id"]: r["cluster"] for r in rows} for name, rows in splits_of(out).items()}
        assert clusters == {"train": {0: 0, 2: 0, 4: 0}, "validation": {}, "test": {1: 1, 3: 1, 5: 5}}
        found = audit_of(out)
        assert found["templates"] == {"column": None, "found": 2, "largest": 5, "train": 1, "validation": 0, "test": 2}
        assert found["contamination"]["known_templates"] == {"validation": 0, "test": 2}
        known = pl.read_parquet(out / "questions.parquet").select("example_id", "known_template").rows()
        assert known == [(1, True), (3, True), (5, False)]


def test_a_dropped_row_is_no_first_member(tmp_path: Path) -> None:
    questions = [story("train", n) for n in (20, 21, 22)]
    out, _ = prepare(tmp_path, rows_of(questions, answer=[None, "w9", "w9"]), split=SPLIT)
    assert [(row["example_id"], row["cluster"]) for row in read(out)] == [(1, 1), (2, 1)]


def test_a_column_of_the_file_names_the_clusters(tmp_path: Path) -> None:
    rows = rows_of(["w4", "w5 w6", "Why?", "w7", "How so?"]) | {"kind": ["a", None, "a", "b", " "]}
    settings = {"columns": {"question": "question", "reasoning": "reasoning", "answer": "answer", "cluster": "kind"}}
    for batch_rows in (2, 100):
        out, _ = prepare(tmp_path, rows, batch_rows=batch_rows, **settings)
        assert [row["cluster"] for row in read(out)] == [0, 1, 0, 3, 4], "a blank value is a cluster of its own"
    assert audit_of(out)["templates"]["column"] == "kind" and audit_of(out)["templates"]["found"] == 4
    settings["columns"]["cluster"] = "sort"
    with pytest.raises(UserError, match="no column 'sort'"):
        prepare(tmp_path, rows, **settings)


def test_a_near_copy_of_a_benchmarks_question_is_dropped_with_the_other_overlaps(tmp_path: Path) -> None:
    asked = STORY.format(name="Nora", n="1,200")
    pl.DataFrame({"question": [None, asked], "answer": ["1", "1200"]}).write_parquet(tmp_path / "b.parquet")
    benchmark = Benchmark(name="b", files=[str(tmp_path / "b.parquet")])
    rows = rows_of([asked.replace("1,200", "1200").replace("old", "nice"), STORY.format(name="Tom", n=3)])
    rows["answer"] = ["#### 1200", "3"]
    out, counts = prepare(tmp_path, rows, contaminated="drop", ngram=30, benchmarks=[benchmark])
    assert counts["dropped"] == {"contaminated_by_benchmark": 1}
    found = audit_of(out)["contamination"]["benchmarks"]["b"]
    assert found["copies"]["train_rows"] == 1 and found["overlap"]["train_rows"] == found["exact"]["train_rows"] == 0
    assert [(pair["train"], pair["benchmark"]) for pair in found["copy_pairs"]] == [(0, 1)]
