"""Conversations as people store them, read into messages; each assistant turn becomes a document.

A cell holds a list of `{role, content}` (OpenAI, Hugging Face) or of `{from, value}` (ShareGPT). A document holds the
messages up to and including its assistant turn, and none after it: under bidirectional attention the turn would see
them ("thanks, 42 is right").
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "function_response", "tool_response"), "tool"),
}
KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content", "thinking")  # keys that chat templates know besides


@dataclass(frozen=True)
class Turn:
    """An assistant turn with everything that was said before it: the source of one document.

    Attributes:
        messages: up to and including the assistant's; [] if the cell holds no conversation.
        question: the user's last message before it; None without one.
        answer: text of the turn.
        number: of the turn among the conversation's assistant turns, from 1.
        last: whether no further assistant turn follows.
        problem: the reason why no document can be made of it; empty if one can.
        reasoning: beginning of `answer` that truncation may cut.
        reference: what answers to the turn are graded against; empty for nothing.
    """

    messages: list[Message]
    question: str | None
    answer: str
    number: int = 1
    last: bool = True
    problem: str = ""
    reasoning: str = ""
    reference: str = ""

    @property
    def context(self) -> str:
        """What was said before the user's last message, for people to read."""
        asked = [number for number, message in enumerate(self.messages) if message["role"] == "user"]
        before = self.messages[: asked[-1]] if asked else []
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in before)


def turns_of(cell: str | None, system: str | None = None) -> list[Turn]:
    """Return the assistant turns of a conversation; one with a `problem` if there is none.

    Args:
        cell: the conversation as JSON text.
        system: system prompt, where the conversation brings none.

    >>> said = [{"from": "human", "value": "6 * 7?"}, {"from": "gpt", "value": "42"}, {"from": "human", "value": "Yes"}]
    >>> [(turn.question, turn.answer, len(turn.messages)) for turn in turns_of(json.dumps(said))]
    [('6 * 7?', '42', 2)]
    >>> turns_of("[]")[0].problem, turns_of('[{"role": "judge", "content": "?"}]')[0].problem
    ('empty_conversation', 'unknown_role')
    """
    messages, problem = read_messages(cell)
    if not problem:
        problem = "no_assistant_turn" if not any(map(_is_trained, messages)) else ""
    if problem:
        return [Turn([], None, "", problem=problem)]
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return list(_turns(messages))


def _turns(messages: list[Message]) -> Iterator[Turn]:
    places = [place for place, message in enumerate(messages) if _is_trained(message)]
    for number, place in enumerate(places, 1):
        said = [_plain(message) for message in messages[: place + 1]]
        asked = [message["content"] for message in said if message["role"] == "user"]
        question, answer = asked[-1] if asked else None, said[-1]["content"]
        problem = "no_user_turn" if question is None else "" if question.strip() else "empty_question"
        if not problem and not answer.strip() and not said[-1].get("tool_calls"):
            problem = "empty_answer"
        yield Turn(said, question, answer, number, number == len(places), problem)


def _is_trained(message: Message) -> bool:
    """Whether a message is an assistant's turn that is not marked to be left out (OpenAI's weight, Axolotl's train)."""
    return message["role"] == "assistant" and message.get("weight") != 0 and message.get("train") is not False


def _plain(message: Message) -> Message:
    return {name: value for name, value in message.items() if name not in ("weight", "train")}


def read_messages(cell: str | None) -> tuple[list[Message], str]:
    """Return the messages of a cell, each with `role` and `content`; else [] and the reason why there are none."""
    if cell is None or not cell.strip():
        return [], "null_conversation"
    try:
        said = json.loads(cell)
    except (ValueError, RecursionError):
        return [], "not_a_conversation"
    if isinstance(said, dict):  # the list within an object, as some exports have it
        said = next((said[name] for name in ("messages", "conversations") if isinstance(said.get(name), list)), None)
    if not isinstance(said, list) or not all(isinstance(message, dict) for message in said):
        return [], "not_a_conversation"
    messages = []
    for message in said:
        read, problem = _read(message)
        if problem:
            return [], problem
        messages.append(read)
    return messages, "" if messages else "empty_conversation"


def _read(message: Message) -> tuple[Message, str]:
    """Return a message with the role's usual name and its content as text; else the reason why it cannot be used."""
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str):
        return {}, "not_a_conversation"
    if role.strip().lower() not in ROLES:
        return {}, "unknown_role"
    text = _text(content)
    if text is None:
        return {}, "content_not_text"
    kept = {name: _without_nulls(message[name]) for name in KEPT if message.get(name) is not None}
    marks = {name: message[name] for name in ("weight", "train") if message.get(name) is not None}
    return {"role": ROLES[role.strip().lower()], "content": text, **kept, **marks}, ""


def _text(content: Any) -> str | None:
    """Return a message's content as text, "" for null; None for pictures and other things that are no text."""
    if content is None:
        return ""
    if isinstance(content, str | int | float):
        return str(content)
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if part.get("type", "text") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return None


def _without_nulls(value: Any) -> Any:
    """Return a value without the nulls that parquet's structs hold for keys that a message does not have."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Yield every text that a chat template may write: contents, names, and what tool calls hold."""
    for message in messages:
        for name, value in message.items():
            if isinstance(value, str) and name != "role":
                yield value
            elif not isinstance(value, str):
                yield json.dumps(value, ensure_ascii=False)
