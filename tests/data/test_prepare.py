"""prepare_shards on rows small enough to write the tokens down, and on the real rows its figures are known for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from dreamtune.contamination.questions import question_hash
from dreamtune.data.survey import SPLIT_NAMES, assign
from dreamtune.errors import UserError
from dreamtune.settings.data import Split
from dreamtune.shards import read_meta, read_split
from rows import BEGINNING, END, prepare, read, splits_of, write_tokenizer

THREE = {"question": ["w4", "w5 w5", "w6"], "reasoning": ["w7 w8", "w9", "w10"], "answer": ["w11", "w12", "w13 w14"]}
Q, R, A = 100, 101, 102


def test_a_row_is_beginning_prompt_response_and_one_end_token(tmp_path: Path) -> None:
    out, counts = prepare(tmp_path, THREE)
    rows = read(out)
    assert rows[1] == {
        "example_id": 1,
        "cluster": 0,
        "input_ids": [BEGINNING, Q, 5, 5, R, 9, A, 12, END],
        "prompt_tokens": 5,
        "complete": True,
        "question": "w5 w5",
        "answer": "w12",
    }
    assert [row["example_id"] for row in rows] == [0, 1, 2]
    assert counts["source_rows"] == 3 and counts["rows"] == {"train": 3, "validation": 0, "test": 0}
    meta = read_meta(out)
    assert meta["tokenizer"] == {"mask_id": 1, "end_id": 2, "beginning_id": 3, "pad_id": 2, "vocab_size": 103}
    assert meta["splits"]["train"] == {
        "rows": 3,
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "files": ["train/train-00000.arrow"],
    }
    assert meta["splits"]["test"] == {"rows": 0, "tokens": 0, "files": []} and not (out / "test").exists()
    assert meta["beginning_token"] is True and meta["source_rows"] == 3 and meta["dropped"] == {}


def test_without_beginning_token_and_without_reasoning(tmp_path: Path) -> None:
    rows = {"problem": ["w4"], "solution": ["w5"]}
    columns = {"question": "problem", "reasoning": None, "answer": "solution"}
    out, _ = prepare(tmp_path, rows, columns=columns, template="Q {question} A {answer}", beginning_token=False)
    assert read(out)[0]["input_ids"] == [Q, 4, A, 5, END] and read(out)[0]["prompt_tokens"] == 3
    assert read_meta(out)["beginning_token"] is False


# prompt 4 tokens (beginning, Q, w4, R), reasoning 5, answer 2 (A, w11), end: 12 in all
LONG = {"question": ["w4"], "reasoning": ["w20 w21 w22 w23 w24"], "answer": ["w11"]}


@pytest.mark.parametrize(
    ("settings", "ids", "complete"),
    [
        ({"max_tokens": 12}, [20, 21, 22, 23, 24, A, 11, END], True),
        ({"max_tokens": 10}, [20, 21, 22, A, 11, END], True),
        ({"max_tokens": 10, "shorten_from": "start"}, [22, 23, 24, A, 11, END], True),
        ({"max_tokens": 10, "too_long": "truncate"}, [20, 21, 22, 23, 24, A], False),
        ({"max_tokens": 11, "too_long": "truncate"}, [20, 21, 22, 23, 24, A, 11], False),
        ({"max_tokens": 8, "too_long": "truncate", "shorten_from": "start"}, [20, 21, 22, 23], False),
        ({"max_tokens": 12, "too_long": "truncate"}, [20, 21, 22, 23, 24, A, 11, END], True),
        ({"max_tokens": 12, "too_long": "drop"}, [20, 21, 22, 23, 24, A, 11, END], True),
    ],
)
def test_truncation_policies(tmp_path: Path, settings: dict[str, Any], ids: list[int], complete: bool) -> None:
    out, _ = prepare(tmp_path, LONG, **settings)
    (row,) = read(out)
    assert row["input_ids"] == [BEGINNING, Q, 4, R, *ids] and row["complete"] is complete
    assert row["prompt_tokens"] == 4


def test_reasoning_is_cut_to_nothing_before_an_answer_is_lost(tmp_path: Path) -> None:
    rows = {name: [*values, "w5"] for name, values in LONG.items()} | {"answer": ["w5 w5 w5", "w5"]}
    out, _ = prepare(tmp_path, rows, max_tokens=9)
    assert read(out)[0]["input_ids"] == [BEGINNING, Q, 4, R, A, 5, 5, 5, END]
    out, counts = prepare(tmp_path, rows, max_tokens=8)
    assert counts["dropped"] == {"answer_does_not_fit": 1} and [row["example_id"] for row in read(out)] == [1]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("shorten_reasoning", "prompt_does_not_fit"), ("truncate", "prompt_does_not_fit"), ("drop", "too_long")],
)
def test_a_prompt_that_fills_everything_is_dropped(tmp_path: Path, policy: str, reason: str) -> None:
    rows = {"question": ["w4 w4 w4 w4 w4 w4", "w5"], "reasoning": ["", ""], "answer": ["w6", "w6"]}
    _, counts = prepare(tmp_path, rows, max_tokens=9, too_long=policy)
    assert counts["dropped"] == {reason: 1}


def test_every_dropped_row_has_a_reason_and_the_counts_add_up(tmp_path: Path) -> None:
    bad: list[tuple[str | None, str | None, str | None, str]] = [
        (None, "w5", "w5", "null_question"),
        (" \n", "w5", "w5", "empty_question"),
        ("w5", None, "w5", "null_reasoning"),
        ("w6", "w5", None, "null_answer"),
        ("w7", "w5", " ", "empty_answer"),
        ("w8", "w5 [MASK]", "w5", "special_token_in_text"),
        ("w9", "w5", "w5 [END] w5", "special_token_in_text"),
        ("w10", "", "w5 " * 20, "answer_does_not_fit"),
        ("w10 " * 20, "", "w5", "prompt_does_not_fit"),
    ]
    good = [("w11", "", "w5", None), ("w12", "w5", "w5", None)]
    mixed = [good[0], *bad, good[1]]
    rows = {name: [row[i] for row in mixed] for i, name in enumerate(("question", "reasoning", "answer"))}
    out, counts = prepare(tmp_path, rows, max_tokens=12)
    assert [row["example_id"] for row in read(out)] == [0, 10]
    lengths = pl.read_parquet(out / "lengths.parquet")
    assert lengths["dropped"].to_list() == [row[3] for row in mixed]
    assert lengths["example_id"].to_list() == list(range(11))
    assert counts["source_rows"] == 11 == 2 + sum(counts["dropped"].values())
    assert counts["dropped"]["special_token_in_text"] == 2


def test_missing_reasoning_never_becomes_the_word_none(tmp_path: Path) -> None:
    rows = {"question": ["w4", "w5"], "reasoning": [None, ""], "answer": ["w6", "w7"]}
    out, _ = prepare(tmp_path, rows)
    assert [row["example_id"] for row in read(out)] == [1]
    assert 0 not in read(out)[0]["input_ids"], "no unknown word was written"


def test_numeric_answers_become_text(tmp_path: Path) -> None:
    rows = {"question": ["w4", "w5", "w6"], "reasoning": ["", "", ""], "answer": [42.0, None, 0.5]}
    out, counts = prepare(tmp_path, rows)
    assert [row["answer"] for row in read(out)] == ["42", "0.5"] and counts["dropped"] == {"null_answer": 1}
    assert json.loads((out / "audit.json").read_text())["unknown_tokens"] == 2


def test_duplicates_are_dropped_after_the_first_usable_row_whatever_the_batches(tmp_path: Path) -> None:
    rows = {
        "question": ["w4", "W4 ", "w5", " w4", "w5", "w5"],
        "reasoning": [""] * 6,
        "answer": [None, "w6", "w7", "w8", "w9", "w10"],
    }
    for batch_rows in (1, 2, 6):
        out, counts = prepare(tmp_path, rows, duplicates="drop", batch_rows=batch_rows)
        assert [row["example_id"] for row in read(out)] == [1, 2]
        assert counts["dropped"] == {"duplicate": 3, "null_answer": 1}
    out, counts = prepare(tmp_path, rows)
    assert counts["dropped"] == {"null_answer": 1}
    assert json.loads((out / "audit.json").read_text())["duplicates"] == {"policy": "keep", "rows": 4, "questions": 2}


def test_the_test_split_asks_each_question_once(tmp_path: Path) -> None:
    """Copies of a question are answered alike: counted one by one they would pass for independent evidence."""
    words = [f"w{4 + i}" for i in range(60)]
    rows = {"question": words * 3, "reasoning": [""] * 180, "answer": ["w9"] * 180}
    out, counts = prepare(tmp_path, rows, split=Split(test=0.3, validation=0.2), batch_rows=7)
    splits = {name: [row["question"] for row in split] for name, split in splits_of(out).items()}
    asked = set(splits["test"])
    assert len(splits["test"]) == len(asked) > 5 and counts["dropped"] == {"repeated_test_question": 2 * len(asked)}
    assert len(splits["train"]) == 3 * len(set(splits["train"])) > 0


SPLIT = {"validation": 0.2, "test": 0.3}


def many(count: int) -> dict[str, list[Any]]:
    """Rows whose questions come in three spellings."""
    questions = [f"w{4 + i % 90} w{4 + i // 90}" for i in range(count)]
    spelt = questions + [q.upper() for q in questions] + [f" {q.replace(' ', '  ')}\n" for q in questions]
    return {
        "question": spelt,
        "reasoning": ["w5"] * len(spelt),
        "answer": [f"w{4 + i % 90}" for i in range(len(spelt))],
    }


def test_spellings_of_one_question_never_straddle_the_split(tmp_path: Path) -> None:
    out, counts = prepare(tmp_path, many(200), split=SPLIT)
    splits = splits_of(out)
    found = {name: {question_hash(row["question"]) for row in rows} for name, rows in splits.items()}
    assert not found["train"] & (found["validation"] | found["test"]) and not found["validation"] & found["test"]
    assert counts["rows"] == {name: len(rows) for name, rows in splits.items()}
    assert counts["dropped"] == {"repeated_test_question": 2 * counts["rows"]["test"]}  # three spellings of each
    assert 0.2 < 3 * counts["rows"]["test"] / 600 < 0.4 and 0.1 < counts["rows"]["validation"] / 600 < 0.3
    assert json.loads((out / "audit.json").read_text())["contamination"]["question_copies"] == 0
    for name, rows in splits.items():
        hashes = np.array([question_hash(row["question"]) for row in rows], np.uint64)
        assert all(SPLIT_NAMES[i] == name for i in assign(hashes, Split(**SPLIT)))


@given(st.integers(0, 2**64 - 1))
def test_the_lowest_hashes_are_test_then_validation(value: int) -> None:
    share = value / 2**64
    expected = "test" if share < 0.3 else "validation" if share < 0.5 else "train"
    split = Split(validation=0.2, test=0.3)
    assert SPLIT_NAMES[int(assign(np.array([value], np.uint64), split)[0])] == expected


def test_batches_change_nothing_and_shards_are_cut_at_their_size(tmp_path: Path) -> None:
    whole, _ = prepare(tmp_path, many(60), split=SPLIT)
    small, counts = prepare(tmp_path, many(60), split=SPLIT, batch_rows=7, rows_per_shard=25)
    assert splits_of(small) == splits_of(whole)
    assert pl.read_parquet(small / "lengths.parquet").equals(pl.read_parquet(whole / "lengths.parquet"))
    assert (small / "audit.json").read_text() == (whole / "audit.json").read_text()
    files = read_meta(small)["splits"]["train"]["files"]
    sizes = [pa.ipc.open_stream(small / file).read_all().num_rows for file in files]
    assert len(files) > 2 and set(sizes[:-1]) == {25} and sum(sizes) == counts["rows"]["train"]
    assert files == sorted(str(p.relative_to(small)) for p in (small / "train").iterdir())


def test_a_contaminated_training_row_is_found_and_dropped_on_request(tmp_path: Path) -> None:
    rows = many(100)
    base = {name: values[:100] for name, values in rows.items()}
    split = Split(validation=0.0, test=0.3)
    heldout = next(q for q in base["question"] if SPLIT_NAMES[int(_split_of(q, split))] == "test")
    copies = [f"{heldout}, {word}" for word in ("w4", "w5", "w6", "w7")]
    copy = next(text for text in copies if SPLIT_NAMES[int(_split_of(text, split))] == "train")
    base["question"].append(copy.upper())
    base["reasoning"].append("w5")
    base["answer"].append("w5")
    # Three words shared with a held-out question of two cannot be; two words are.
    settings = {"split": {"validation": 0.0, "test": 0.3}, "ngram": 2}
    out, kept = prepare(tmp_path, base, **settings)
    audit = json.loads((out / "audit.json").read_text())["contamination"]
    assert audit["train_rows"] == 1 and audit["test_rows"] == 1
    assert [pair["train"] for pair in audit["pairs"]] == [100]
    [pair] = audit["pairs"]
    assert base["question"][pair["heldout"]] == pair["heldout_question"] == heldout
    assert pair["text"].startswith(heldout) and pair["train_question"] == copy.upper()
    _, dropped = prepare(tmp_path, base, **settings, contaminated="drop")
    assert dropped["dropped"] == {"contaminated": 1}
    assert dropped["rows"]["train"] == kept["rows"]["train"] - 1 and dropped["rows"]["test"] == kept["rows"]["test"]


def _split_of(question: str, split: Split) -> np.ndarray:
    return assign(np.array([question_hash(question)], np.uint64), split)[0]


def test_nothing_left_to_train_on_is_an_error_that_says_why(tmp_path: Path) -> None:
    rows = {"question": ["w4", None], "reasoning": ["", ""], "answer": pl.Series([None, None], dtype=pl.String)}
    with pytest.raises(UserError, match=r"none of the 2 rows is left .*null_answer 1, null_question 1"):
        prepare(tmp_path, rows)


def test_one_row_in_all_gives_shards_and_a_whole_audit(tmp_path: Path) -> None:
    out, counts = prepare(tmp_path, {"question": ["w4"], "reasoning": [""], "answer": ["w5"]}, contaminated="drop")
    assert counts["rows"] == {"train": 1, "validation": 0, "test": 0}
    audit = json.loads(
        (out / "audit.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the audit")
    )
    assert audit["tokens"]["tokens"]["p99"] == 7 and audit["kept_characters"]["test"]["answer_characters"] == {}
    assert audit["flags"]["blank_reasoning"] == {"rows": 1, "examples": [0]} and audit["scripts"] == {"none": 1}
    with pytest.raises(UserError, match=r"none of the 1 rows is left for training .held out: 1;"):
        prepare(
            tmp_path, {"question": ["w4"], "reasoning": [""], "answer": ["w5"]}, split={"test": 0.99, "validation": 0}
        )


def test_a_template_that_spells_out_the_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spells out \[END\]"):
        prepare(tmp_path, THREE, template="Q {question} R {reasoning} A {answer} [END]")


def test_an_empty_split_or_a_folder_without_shards_cannot_be_read(tmp_path: Path) -> None:
    out, _ = prepare(tmp_path, THREE)
    with pytest.raises(UserError, match=r"test split .* has no rows"):
        read_split(out, "test")
    with pytest.raises(UserError, match="no split 'dev'"):
        read_split(out, "dev")
    with pytest.raises(UserError, match=r"no shards\.json"):
        read_meta(tmp_path)


def test_the_data_stages_import_no_torch(tmp_path: Path) -> None:
    pl.DataFrame(THREE).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "out").mkdir()
    code = f"""
import sys
from pathlib import Path
from dreamtune.contamination.audit import audit_contamination
from dreamtune.data.prepare import prepare_shards
from dreamtune.settings.data import DataConfig
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_split
out = Path({str(tmp_path / "out")!r})
split = {{"validation": 0.0, "test": 0.0}}
prepare_shards(DataConfig(files=[{str(tmp_path / "rows.parquet")!r}], split=split),
               ModelConfig(path={write_tokenizer(tmp_path / "model")!r}), out)
audit_contamination(out, Benchmark(name="b", files=[{str(tmp_path / "rows.parquet")!r}]), 2, str, out)
assert len(read_split(out, "train")[:2]["input_ids"]) == 2
found = {{"torch", "transformers"}} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
