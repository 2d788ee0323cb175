"""What looks odd about a row's text: hand-made rows of which every flag is known."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.data.alphabets import BLOCKS, NAMES, scripts_of
from dreamtune.data.oddities import FLAGS, ROW_FLAGS, row_flags
from rows import prepare

ENGLISH = "How many apples are there in the basket of the farmer?"
CHINESE = "篮子里一共有多少个苹果？"
RUSSIAN = "Сколько яблок лежит в корзине у фермера?"
GERMAN = (
    "Ein Zug fährt um acht Uhr in Berlin ab und fährt mit einer Geschwindigkeit von hundert Kilometern pro Stunde "
    "nach Hamburg. Wie lange braucht er, wenn die Strecke dreihundert Kilometer lang ist?"
)
TRAIN = "A train leaves the city at eight and travels to the coast, which is three hundred miles away, at the speed "
MANY_WORDS = TRAIN + "of a hundred miles an hour. How long does it take?"


def flagged(question: str = ENGLISH, reasoning: str = "Count them, one by one.", answer: str = "42") -> set[str]:
    row = row_flags([question], [reasoning], [answer]).row(0, named=True)
    return {name for name in ROW_FLAGS if row[name]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, set()),
        ({"reasoning": " \n"}, {"blank_reasoning"}),
        ({"answer": f" {ENGLISH.upper()}\n"}, {"answer_equals_question"}),
        *(
            ({"answer": answer}, {"no_answer"})
            for answer in ("nan", " NaN\n", "None", "NULL", "N/A", "n/a", "#N/A", "-", "—")
        ),
        *(({"answer": answer}, set()) for answer in ("NA", "None of them", "-1", "no", "0", "nano", "A")),
        ({"reasoning": "one\x07 two"}, {"control_characters"}),
        ({"question": f"\ufeff{ENGLISH}"}, {"control_characters"}),
        ({"question": f"{ENGLISH}\r\n\tTell me."}, set()),
        ({"answer": "caf\ufffd"}, {"replacement_characters"}),
        ({"answer": "a café, it’s 5 °C"}, set()),
        ({"answer": "a café".encode().decode("cp1252")}, {"mojibake"}),
        ({"answer": "it’s".encode().decode("cp1252")}, {"mojibake"}),
        ({"answer": "5 °C".encode().decode("latin-1")}, {"mojibake"}),
        ({"reasoning": "first<br/>then"}, {"html"}),
        ({"reasoning": "then &nbsp; more"}, {"html"}),
        ({"reasoning": '<SPAN style="x">a</SPAN>'}, {"html"}),
        ({"question": "Let <a, b> be such that a < b and b > c & <p, q> = 1"}, set()),
        ({"question": GERMAN}, {"few_english_words"}),
        ({"question": MANY_WORDS}, set()),
        ({"question": f"{RUSSIAN} " * 5}, set()),  # its script says that already
        ({"question": "Berechne die Summe."}, set()),  # too short to tell
        ({"question": CHINESE}, set()),  # of one part alone the script is known
        ({"question": CHINESE, "answer": ENGLISH}, {"mixed_scripts"}),
        ({"reasoning": RUSSIAN}, {"mixed_scripts"}),
    ],
)
def test_each_flag_on_a_row_made_for_it(row: dict[str, str], expected: set[str]) -> None:
    assert flagged(**row) == expected


def test_no_reasoning_column_is_no_blank_reasoning() -> None:
    assert not row_flags([ENGLISH], None, ["42"])["blank_reasoning"].any()
    assert row_flags([], None, []).columns == ["script", *ROW_FLAGS]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (ENGLISH, "Latin"),
        ("Où était-il, là-bas, l'été dernier ?", "Latin"),
        (CHINESE, "Han and Kana"),
        ("りんごは全部でいくつありますか", "Han and Kana"),
        ("바구니에 사과가 모두 몇 개 있습니까?", "Hangul"),
        (RUSSIAN, "Cyrillic"),
        ("كم عدد التفاحات في سلة المزارع؟", "Arabic"),
        ("टोकरी में कुल कितने सेब हैं?", "Devanagari"),
        ("12 + 30 = 42", ""),
        ("(A) x = 5", ""),
        (r"\frac{1}{2} \cdot \sqrt{3} \leq \operatorname{max}", ""),
        (rf"{CHINESE} $\frac{{1}}{{2}} \leq \sqrt{{x}}$ cm", "Han and Kana"),
    ],
)
def test_the_script_of_a_text_is_that_of_most_of_its_letters(text: str, script: str) -> None:
    assert NAMES[scripts_of([text])[0]] == script


def test_the_blocks_hold_letters_of_the_script_they_are_named_for() -> None:
    words = {"Han and Kana": ("CJK", "KATAKANA", "HIRAGANA", "BOPOMOFO", "HALFWIDTH"), "Latin": ("LATIN", "FULLWIDTH")}
    marks = ("MODIFIER", "COMBINING", "FEMININE", "MASCULINE", "COPTIC", "RIAL", "ORNATE", "HALFWIDTH")
    for name, blocks in BLOCKS.items():
        for first, last in blocks:
            for code in (code for code in range(first, last + 1) if chr(code).isalpha()):
                found = unicodedata.name(chr(code), name.upper())
                assert found.startswith((*words.get(name, (name.upper(),)), *marks)), f"{name}: {found}"


def audit(tmp_path: Path, questions: list[str], answers: list[str]) -> dict[str, Any]:
    rows = {"question": questions, "reasoning": ["w5"] * len(questions), "answer": answers}
    out, _ = prepare(tmp_path, rows)
    content: dict[str, Any] = json.loads((out / "audit.json").read_text())
    content["odd"] = {name: flag for name, flag in content["flags"].items() if flag["rows"]}
    content["said"] = [warning for warning in content["warnings"] if "example ids" in warning]
    content["lengths"] = pl.read_parquet(out / "lengths.parquet")
    return content


def test_flags_are_counted_with_the_first_ids_and_notable_ones_warned_of(tmp_path: Path) -> None:
    questions = [f"{i} {ENGLISH}" for i in range(300)]
    answers = ["42"] * 300
    for i in (7, 9, 20, 21, 22, 23, 24):
        answers[i] = "4\x00" if i != 9 else f"4\ufffd{'2' * 100}"
    questions[250] = RUSSIAN
    found = audit(tmp_path, questions, answers)
    assert set(found["flags"]) == set(FLAGS)
    assert found["odd"] == {
        "control_characters": {"rows": 6, "examples": [7, 20, 21, 22, 23]},
        "replacement_characters": {"rows": 1, "examples": [9]},
        "other_script": {"rows": 1, "examples": [250]},
        "long_answer": {"rows": 1, "examples": [9]},
    }
    assert found["scripts"] == {"Latin": 299, "Cyrillic": 1}
    # 6 of 300 rows are 2 %; one of 300 is below the 1 % that is worth a line.
    [line] = found["said"]
    assert line.startswith("6 of 300 rows hold control characters") and "7, 20, 21, 22, 23" in line
    assert found["lengths"].filter("control_characters")["example_id"].to_list() == [7, 20, 21, 22, 23, 24]
    assert found["lengths"]["script"][250] == "Cyrillic"


def test_answers_that_stand_for_none_are_warned_of(tmp_path: Path) -> None:
    found = audit(tmp_path, [f"{i} {ENGLISH}" for i in range(4)], ["42", "nan", "7", "N/A"])
    assert found["odd"] == {"no_answer": {"rows": 2, "examples": [1, 3]}}
    assert found["said"] == [
        "2 of 4 rows have an answer that stands for a missing one, such as nan, None, N/A or - (example ids 1, 3)"
    ]


def test_a_dropped_row_without_text_has_no_flags(tmp_path: Path) -> None:
    found = audit(tmp_path, [ENGLISH, " "], ["42", "4\x00"])
    assert found["odd"] == {} and found["said"] == [] and found["scripts"] == {"Latin": 1}
    assert found["lengths"].select("script", *ROW_FLAGS).row(1) == (None,) * (1 + len(ROW_FLAGS))


def test_a_corpus_in_another_language_is_not_odd_to_itself(tmp_path: Path) -> None:
    found = audit(tmp_path, [f"{GERMAN} {i}" for i in range(9)], ["42"] * 9)
    assert found["odd"] == {"few_english_words": {"rows": 9, "examples": [0, 1, 2, 3, 4]}} and found["said"] == []
    mixed = audit(tmp_path, [GERMAN, *(f"{MANY_WORDS} {i}" for i in range(9))], ["42"] * 10)
    assert len(mixed["said"]) == 1 and mixed["odd"]["few_english_words"]["examples"] == [0]


@needs_shared
@pytest.mark.parametrize(
    ("file", "reasoning", "expected"),
    [
        ("gsm8k_train.parquet", "gemini_thinking_trajectory", {"control_characters": 1}),
        ("s1k_101.parquet", "gemini_thinking_trajectory", {"control_characters": 1, "html": 2}),
        ("s1k_questions_1000.parquet", None, {"control_characters": 2, "html": 4}),
    ],
)
def test_real_rows_are_rarely_odd(file: str, reasoning: str | None, expected: dict[str, int]) -> None:
    rows = pl.read_parquet(SHARED / "data" / file)
    parts = [rows[name].to_list() if name else None for name in ("question", reasoning, "solution")]
    flags = row_flags(parts[0], parts[1], parts[2])  # type: ignore[arg-type]
    assert {name: flags[name].sum() for name in ROW_FLAGS if flags[name].any()} == expected
    assert flags["script"].unique().to_list() == ["Latin"]
