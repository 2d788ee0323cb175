"""Worked examples before a question: which rows are drawn, how they are written, and whether they fit."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError
from dreamtune.generate.few_shot import WorkedExamples, check_fit, text_between
from dreamtune.settings.few_shot import FewShot
from dreamtune.shards import read_meta
from rows import BEGINNING, END, TEMPLATE, prepare, read, write_tokenizer

WORDS = [f"w{i}" for i in range(10, 50)]
ROWS: dict[str, list[Any]] = {
    "question": WORDS,
    "reasoning": ["w4 w5"] * 40,
    "answer": [f"w{i + 40}" for i in range(10, 50)],
}


def worked(
    folder: Path, shots: int = 2, seed: int = 0, rows: dict[str, list[Any]] = ROWS, **few: Any
) -> WorkedExamples:
    """Return the worked examples of rows, of which a third is held out; `template` and `max_tokens` are `data`'s."""
    options = {name: few.pop(name) for name in ("template", "max_tokens", "too_long", "duplicates") if name in few}
    out, _ = prepare(folder, rows, split={"validation": 0.0, "test": 0.3, "seed": 0}, **options)
    tokenizer = load_tokenizer(write_tokenizer(folder / "model"))
    return WorkedExamples(FewShot(shots=shots, **few), out, read_meta(out), tokenizer, seed)


def test_an_example_has_the_tokens_of_its_training_row(tmp_path: Path) -> None:
    examples = worked(tmp_path)
    tokens, shots = examples.before(7, "w99", [BEGINNING, 100, 99, 101])
    by_id = {row["example_id"]: row["input_ids"] for row in read(tmp_path / "out0")}
    first, second = (by_id[shot] for shot in shots)
    assert first[0] == second[0] == BEGINNING and first[-1] == second[-1] == END
    assert tokens == [BEGINNING, *first[1:-1], *second[1:-1], 100, 99, 101]  # this tokenizer has no token for \n\n
    assert examples.describe([tokens]) == {
        "shots": 2,
        "rows": len(by_id),
        "form": "plain text",
        "between": "\n\n",
        "between_tokens": 0,
        "longest_prompt": len(tokens),
    }


def test_examples_come_from_the_training_split_by_seed_and_question(tmp_path: Path) -> None:
    examples = worked(tmp_path, shots=3)
    train = {row["example_id"] for row in read(tmp_path / "out0")}
    drawn = [examples.before(number, "w99", [BEGINNING])[1] for number in range(60)]
    assert all(len(set(shots)) == 3 and set(shots) <= train for shots in drawn)
    assert {shot for shots in drawn for shot in shots} == train and len({tuple(shots) for shots in drawn}) > 50
    again = worked(tmp_path, shots=3)
    assert [again.before(number, "w99", [BEGINNING])[1] for number in range(60)] == drawn
    other = worked(tmp_path, shots=3, seed=1)
    assert sum(other.before(n, "w99", [BEGINNING])[1] == shots for n, shots in enumerate(drawn)) < 5


def test_a_question_is_never_among_its_own_examples(tmp_path: Path) -> None:
    """A benchmark's question may stand in the training split, spelled in another case."""
    rows = {"question": ["w10", "w11", "w12"], "reasoning": ["w4"] * 3, "answer": ["w50", "w51", "w52"]}
    out, _ = prepare(tmp_path, rows)
    examples = WorkedExamples(
        FewShot(shots=2), out, read_meta(out), load_tokenizer(write_tokenizer(tmp_path / "model")), seed=0
    )
    for number in range(20):
        assert sorted(examples.before(number, " W11 ", [BEGINNING])[1]) == [0, 2]


def test_repeated_questions_count_once(tmp_path: Path) -> None:
    rows = {"question": ["w10"] * 9 + ["w11"], "reasoning": ["w4"] * 10, "answer": ["w50"] * 10}
    with pytest.raises(UserError, match=r"needs 3 complete training rows with different questions, and there are 2"):
        worked(tmp_path, rows=rows)


def test_only_complete_rows_of_the_allowed_length_are_drawn(tmp_path: Path) -> None:
    long = [*["w4 w5"] * 30, *["w4 w5 w6 w7 w8"] * 10]
    examples = worked(tmp_path, rows=ROWS | {"reasoning": long}, example_tokens=7)
    lengths = {row["example_id"]: len(row["input_ids"]) for row in read(tmp_path / "out0")}
    assert len(examples.rows) == sum(length == 9 for length in lengths.values()) < len(lengths)
    cut = worked(tmp_path, rows=ROWS | {"reasoning": long}, max_tokens=10, too_long="truncate")
    complete = {row["example_id"] for row in read(tmp_path / "out1") if row["complete"]}
    drawn = {shot for n in range(60) for shot in cut.before(n, "w99", [BEGINNING])[1]}
    assert drawn == complete and len(complete) < len(lengths)
    with pytest.raises(UserError, match=r"of at most 6 tokens.*raise evaluate.few_shot_example_tokens"):
        worked(tmp_path, example_tokens=6)


CHAT = "<|user|> {question} <|close|> w9 <|bot|> {reasoning} A {answer}"


@pytest.mark.parametrize(
    ("template", "between"),
    [
        (CHAT, "<|close|> w9 "),  # as the question's turn is closed
        (CHAT + " <|close|>", " w9 "),
        (CHAT + " <|close|> w9", ""),  # the template closes the turn and ends the line
        ("<|user|> {question} <|bot|> {answer}", None),  # closed by the end token, as in training
        (TEMPLATE, "\n\n"),
    ],
)
def test_examples_of_a_chat_template_are_earlier_turns(template: str, between: str | None) -> None:
    assert text_between(template, ["<|user|>", "<|bot|>", "<|close|>"]) == between


def test_a_turn_without_a_closing_token_gets_the_end_token(tmp_path: Path) -> None:
    """[UNK] is the one special token of this tokenizer that a template may write."""
    examples = worked(tmp_path, template="[UNK] {question} R {reasoning} A {answer}")
    tokens, shots = examples.before(7, "w99", [BEGINNING, 0, 99, 101])
    by_id = {row["example_id"]: row["input_ids"] for row in read(tmp_path / "out0")}
    assert tokens == [BEGINNING, *(token for shot in shots for token in by_id[shot][1:]), 0, 99, 101]
    assert examples.describe([])["form"] == "earlier turns"


def test_a_prompt_that_does_not_fit_is_one_line() -> None:
    prompts = [[1] * 90, [1] * 97]
    check_fit(prompts, 31, 128, FewShot(shots=3))
    check_fit(prompts, 1_000, None, FewShot(shots=3))
    with pytest.raises(
        UserError, match=r"1 of 2 questions do not fit behind 3 worked examples.*97 tokens.*context of 128"
    ):
        check_fit(prompts, 32, 128, FewShot(shots=3))
    with pytest.raises(UserError, match=r"2 of 2 .* evaluate.few_shot_context of 64") as raised:
        check_fit(prompts, 32, 128, FewShot(shots=3, context=64))
    assert "\n" not in str(raised.value)
