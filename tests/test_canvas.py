"""Which canvases of generation count as not shown in training, and that each is said in one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dreamtune.canvas import Canvas, canvas_warnings
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.train import TrainConfig
from rows import prepare

DEMO = {"p05": 24.0, "p95": 32.0, "max": 32}  # tokens of the demo's responses
FITS = Canvas(longest_tail=34, cuts=False, max_new_tokens=80, block_length=15, lookahead=20)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"max_new_tokens": 32}, []),
        ({"max_new_tokens": 1000}, []),  # only a limit
        ({"lookahead": 21}, ["up to 35 masked positions stand behind an answer's end in generation, and at most 34"]),
        ({"lookahead": None}, ["up to 56 masked positions stand behind"]),
        ({"lookahead": None, "max_new_tokens": 32}, []),  # the responses fill the canvas
        ({"block_length": None, "lookahead": None, "max_new_tokens": 64}, ["up to 40 masked positions stand behind"]),
        ({"block_length": 16}, ["up to 35 masked positions stand behind"]),
        ({"lookahead": 8}, ["begins with a canvas of 23 positions, training responses have up to 32"]),
        ({"lookahead": 8, "cuts": True}, []),
        ({"max_new_tokens": 31}, ["longer than max_new_tokens = 31 (the longest has 32", "begins with a canvas of 31"]),
        ({"longest_tail": 0, "block_length": 1, "lookahead": 0, "cuts": True}, []),
    ],
)
def test_what_was_not_trained_is_said(changes: dict[str, object], said: list[str]) -> None:
    found = canvas_warnings(DEMO, replace(FITS, **changes))  # type: ignore[arg-type]
    assert len(found) == len(said) and all(part in text for part, text in zip(said, found, strict=True)), found
    assert all("\n" not in text and ("raise" in text or "set" in text) for text in found)


def test_without_training_rows_there_is_nothing_to_compare() -> None:
    assert canvas_warnings({}, FITS) == []


@pytest.mark.parametrize(
    ("train", "tail", "cuts"),
    [
        ({"max_tail": 8}, 8, False),
        ({"max_tail": 8, "long_tail": 24}, 24, False),
        ({"max_tail": 8, "long_tail": 24, "long_tail_share": 0.0}, 8, False),
        ({"max_tail": 8, "cut_share": 0.2}, 8, True),
    ],
)
def test_a_canvas_is_read_from_the_sections_as_they_lie_in_a_manifest(
    train: dict[str, float], tail: int, cuts: bool
) -> None:
    settings = TrainConfig.model_validate(train)
    generate = GenerateConfig(max_new_tokens=64, block_length=8, lookahead=tail)
    assert Canvas.of(settings.model_dump(), generate.model_dump()) == Canvas(tail, cuts, 64, 8, tail)
    assert settings.longest_tail == tail


def test_a_manifest_of_before_has_neither_long_tails_nor_lookahead() -> None:
    assert Canvas.of({"max_tail": 8}, {"max_new_tokens": 32}) == Canvas(8, False, 32, None, None)


def test_a_canvas_that_training_will_not_show_is_said_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The responses have 4 or 5 tokens: in a canvas of 9, 5 positions stand behind an end token, and 2 in training."""
    rows = {"question": ["w4", "w5 w5", "w6"], "reasoning": ["w7 w8", "w9", "w10"], "answer": ["w11", "w12", "w13 w14"]}
    fits = Canvas(longest_tail=2, cuts=False, max_new_tokens=6, block_length=None, lookahead=None)
    wide = Canvas(longest_tail=2, cuts=False, max_new_tokens=9, block_length=None, lookahead=None)
    out, _ = prepare(tmp_path, rows, canvases={"a, greedy": fits, "b, greedy": wide})
    found = json.loads((out / "audit.json").read_text())["canvases"]
    assert found["a, greedy"]["warnings"] == [] and found["b, greedy"]["max_new_tokens"] == 9
    [text] = found["b, greedy"]["warnings"]
    assert text.startswith("up to 5 masked positions stand behind an answer's end in generation, and at most 2")
    assert f"warning: b, greedy: {text}\n" in capsys.readouterr().err
