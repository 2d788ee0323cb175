"""The paragraph after smoke in planted situations: what it says, which alarms it raises, and no number of its own."""

import re
from typing import Any

import pytest

from dreamtune.smoke.words import HELP, Seen, in_words

FINE: dict[str, Any] = {
    "losses": [4.1, 3.9, 4.0, 4.0, 2.1, 1.9, 2.0, 2.0],
    "averaged": 4,
    "validation": (3.875, 2.125),
    "moved": 0.0123,
    "canvas": [],
    "full_s": 190.0,
}
SHORT = "generation begins with a canvas of 23 positions, training responses have up to 31: raise generate.lookahead"


def said(**changes: Any) -> tuple[str, list[str]]:
    found = in_words(Seen(**(FINE | changes)))
    return found["words"], found["alarms"]


def test_a_run_in_which_all_is_well() -> None:
    assert said() == (
        "The training loss fell by 2.000 nats per token, from 4.000 to 2.000 over 8 steps (means of the first and the "
        "last 4), the validation loss, under the same masks before and after, fell by 1.750 nats per token, from 3.875 "
        "to 2.125. The adapter's update has 1.23\u00a0% of the norm of the frozen weights it is added to. The canvas "
        "of generation fits what training shows. The full run's steps will take about 3 min 10 s at this speed. "
        "Nothing here is an alarm.",
        [],
    )


@pytest.mark.parametrize(
    ("changes", "alarm", "words"),
    [
        (
            {"validation": (3.875, 3.9)},
            "loss",
            "rose by 0.025 nats per token, from 3.875 to 3.900. ALARM: the loss did",
        ),
        ({"validation": (3.875, 3.8750001)}, "loss", "stayed at 3.875 nats per token. ALARM: the loss did not fall."),
        (
            {"validation": None, "losses": [4.0, 6.0, 5.0, 5.0, 4.0, 6.0, 5.0, 4.0]},
            "loss",
            "0.629 is the standard error of that difference, so this is no fall. ALARM: the loss did not fall.",
        ),
        ({"moved": 0.0}, "adapter", "ALARM: the adapter did not move, its update is 0."),
        ({"dead": "dead: layers.0.q_proj"}, "adapter", "ALARM: modules of the model learned nothing (dead: layers.0."),
        ({"moved": 2.5}, "too far", "250.00\u00a0% of the norm of the frozen weights it is added to. ALARM: it outw"),
        ({"canvas": [SHORT]}, "canvas", f"ALARM: the canvas of generation does not fit what training shows: {SHORT}."),
    ],
)
def test_what_looks_wrong_is_an_alarm_with_what_usually_helps(changes: Any, alarm: str, words: str) -> None:
    paragraph, alarms = said(**changes)
    assert alarms == [alarm] and words in paragraph
    assert paragraph.endswith(f"What usually helps: {HELP[alarm]}.")
    assert "Nothing here is an alarm" not in paragraph and "\n" not in paragraph


def test_several_alarms_each_have_their_own_advice() -> None:
    paragraph, alarms = said(validation=(2.0, 2.5), moved=0.0, canvas=[SHORT])
    assert alarms == ["loss", "adapter", "canvas"]
    assert paragraph.count("What usually helps against a") == 3 and paragraph.count("ALARM") == 3


def test_a_fall_that_the_noise_of_steps_could_be_is_told_from_one_that_it_could_not() -> None:
    assert said(validation=None)[1] == []
    assert said(validation=None, losses=[4.1, 3.9, 4.0, 4.0, 4.0, 3.9, 4.0, 4.0])[1] == ["loss"]


def test_what_was_not_measured_is_left_out() -> None:
    paragraph, alarms = said(losses=[4.0], averaged=1, validation=None, moved=None, canvas=None, full_s=None)
    assert (
        paragraph
        == "The training loss was 4.000 nats per response token in the only step. What was measured gives no alarm."
    )
    assert alarms == []
    short = said(losses=[4.0, 3.0], averaged=1, validation=None)[0]
    assert "over 2 steps." in short and "standard error" not in short and "ALARM" not in short


def test_every_number_was_measured() -> None:
    known = {"2.000", "4.000", "8", "4", "1.750", "3.875", "2.125", "1.23", "3", "10"}
    assert set(re.findall(r"\d+(?:\.\d+)?", said()[0])) == known


def test_an_update_that_is_next_to_nothing_is_not_rounded_to_zero() -> None:
    assert "has 2.5e-07 times of the norm" not in said(moved=2.5e-7)[0]
    assert "2.5e-07 times the norm of the frozen weights" in said(moved=2.5e-7)[0]
