"""Conversations as people store them: which turns become documents, and the reason where none does."""

import json
from typing import Any

import pytest

from dreamtune.chat.conversations import turns_of
from dreamtune.chat.messages import read_messages

ASKED, SAID = {"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": "42"}


def turns(said: Any, **more: Any) -> list[tuple[str | None, str, str]]:
    return [(turn.question, turn.answer, turn.problem) for turn in turns_of(json.dumps(said), **more)]


def test_each_assistant_turn_is_cut_off_at_its_end() -> None:
    thanks = {"role": "user", "content": "thanks, 42 is right"}
    first, second = turns_of(json.dumps([ASKED, SAID, thanks, {"role": "assistant", "content": "Welcome."}]))
    assert first.messages == [ASKED, SAID] and not first.last
    assert [message["content"] for message in second.messages] == ["6 * 7?", "42", "thanks, 42 is right", "Welcome."]
    assert (second.question, second.number, second.last) == ("thanks, 42 is right", 2, True)
    assert second.context == "user: 6 * 7?\n\nassistant: 42"


@pytest.mark.parametrize(
    "said",
    [
        [{"from": "human", "value": "6 * 7?"}, {"from": "gpt", "value": "42"}],
        {"messages": [ASKED, SAID]},
        [{"role": "user", "content": [{"type": "text", "text": "6 * "}, {"type": "text", "text": "7?"}]}, SAID],
        [{"from": "user", "value": "6 * 7?"}, {"from": "bot", "value": 42}],
        [{"role": "Human", "content": "6 * 7?", "name": None}, {"role": "model", "content": "42", "tool_calls": None}],
        [{"role": None, "from": "human", "content": None, "value": "6 * 7?"}, SAID | {"from": None, "value": None}],
        {"role": ["user", "assistant"], "content": ["6 * 7?", "42"], "name": [None, None]},
        {"from": ["human", "gpt"], "value": ["6 * 7?", "42"], "id": 7},
        [ASKED | {"content": [{"type": "input_text", "text": "6 * 7?"}]}, SAID | {"content": 42.0}],
    ],
)
def test_other_spellings_are_the_same_conversation(said: Any) -> None:
    assert read_messages(json.dumps(said)) == ([ASKED, SAID], "")


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (None, "null_conversation"),
        (" ", "null_conversation"),
        ("[]", "empty_conversation"),
        ("6 * 7 = 42", "not_a_conversation"),
        ("[1, 2]", "not_a_conversation"),
        ("[" * 100_000, "not_a_conversation"),
        (
            json.dumps([ASKED, SAID])[:-1] + ', {"role": "tool", "x": ' + "[" * 600 + "]" * 600 + "}]",
            "not_a_conversation",
        ),
        ('[{"role": "user", "content": "6", "content": "7"}]', "not_a_conversation"),
        (json.dumps({"role": ["user", "assistant"], "content": ["6 * 7?"]}), "not_a_conversation"),
        ('[{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "42"}]', "broken_character"),
        (json.dumps([ASKED, SAID | {"tool_calls": [{"name": "\ud83d"}]}]), "broken_character"),
        (json.dumps([ASKED, SAID | {"weight": 0.5}]), "unknown_weight"),
        (json.dumps([ASKED, SAID | {"weight": -1}]), "unknown_weight"),
        (json.dumps([ASKED, SAID | {"train": "perhaps"}]), "unknown_weight"),
        (json.dumps([{"role": "judge", "content": "?"}]), "unknown_role"),
        (json.dumps([{"content": "?"}]), "not_a_conversation"),
        (json.dumps([{"role": "user", "content": [{"type": "image", "url": "x"}]}, SAID]), "content_not_text"),
        (json.dumps([ASKED]), "no_assistant_turn"),
        (json.dumps([ASKED, SAID | {"weight": 0}]), "no_assistant_turn"),
        (json.dumps([SAID]), "no_user_turn"),
        (json.dumps([ASKED | {"content": " "}, SAID]), "empty_question"),
        (json.dumps([ASKED, SAID | {"content": None}]), "empty_answer"),
        (json.dumps([ASKED, SAID | {"content": float("nan")}]), "empty_answer"),
    ],
)
def test_what_cannot_be_a_document_has_a_named_reason(cell: str | None, problem: str) -> None:
    [turn] = turns_of(cell)
    assert turn.problem == problem


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"train": False}, {"train": "false"}, {"loss": False}]
)
def test_a_turn_that_is_not_trained_on_is_still_context(mark: dict[str, Any]) -> None:
    again = [{"role": "user", "content": "And 2 * 2?"}, {"role": "assistant", "content": "4", "weight": 1, "loss": 0.3}]
    [turn] = turns_of(json.dumps([ASKED, SAID | mark, *again]))
    again[1] = {"role": "assistant", "content": "4"}
    assert turn.messages == [ASKED, SAID, *again] and turn.question == "And 2 * 2?"


def test_a_leading_assistant_turn_is_no_document_and_the_next_one_sees_it() -> None:
    hello = {"role": "assistant", "content": "Hello!"}
    assert turns([hello, ASKED, SAID]) == [(None, "Hello!", "no_user_turn"), ("6 * 7?", "42", "")]
    assert turns_of(json.dumps([hello, ASKED, SAID]))[1].messages[0] == hello


def test_the_system_prompt_is_for_conversations_that_bring_none() -> None:
    own = {"role": "system", "content": "Be kind."}
    assert turns_of(json.dumps([ASKED, SAID]), "Be brief.")[0].messages[0]["content"] == "Be brief."
    assert turns_of(json.dumps([own, ASKED, SAID]), "Be brief.")[0].messages == [own, ASKED, SAID]


def test_nulls_of_parquets_structs_are_left_out_of_tool_calls() -> None:
    call = {"type": "function", "function": {"name": "times", "arguments": {"a": 6, "b": 7, "c": None}}}
    [turn] = turns_of(json.dumps([ASKED, {"role": "assistant", "content": None, "tool_calls": [call], "name": None}]))
    made = {"type": "function", "function": {"name": "times", "arguments": {"a": 6, "b": 7}}}
    assert turn.messages[1] == {"role": "assistant", "content": "", "tool_calls": [made]} and not turn.problem


def test_keys_that_only_some_templates_know_are_kept() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "times", "arguments": "{}"}}
    first, second = turns_of(json.dumps([ASKED, called, {"role": "function", "name": "times", "content": "42"}, SAID]))
    assert not first.problem and first.messages[1] == called | {"content": ""}
    assert second.messages[2] == {"role": "tool", "content": "42", "name": "times"}
    [turn] = turns_of(json.dumps([ASKED, SAID | {"reasoning": "6 + 6 + …"}]))
    assert turn.messages[1] == SAID | {"reasoning": "6 + 6 + …"}
