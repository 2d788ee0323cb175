"""Messages as people store them: a cell's JSON read into `{role, content, …}`, or the reason why it holds none.

A cell holds a list of `{role, content}` (OpenAI, Hugging Face) or of `{from, value}` (ShareGPT), an object with such a
list in it, or one list for each key (as the library `datasets` stores a sequence of objects).
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dreamtune.inputs.cells import number_text, once_each

Message = dict[str, Any]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "function_response", "tool_response"), "tool"),
}
ROLE, CONTENT = ("role", "from"), ("content", "value")  # names of the same key, the first that is there counts
# Marks of an assistant's turn that is trained on or not: OpenAI's, Axolotl's, and ms-swift's and LLaMA-Factory's.
MARKS = ("weight", "train", "loss")
TRAINED = {True: True, False: False, "1": True, "0": False, "true": True, "false": False}  # 1 == 1.0 == True
TEXT_PARTS = ("text", "input_text", "output_text")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # escapes of which only two in a row are a character
DECODER = json.JSONDecoder(object_pairs_hook=once_each)


def read_messages(cell: str | None) -> tuple[list[Message], str]:
    """Return the messages of a cell, each with `role` and `content`; else [] and the reason why there are none.

    All other keys are kept for the chat template, but not those that are null: parquet's structs hold nulls for keys
    that a message does not have.

    >>> read_messages('[{"from": "human", "value": "Hi", "tool_calls": null, "name": "Ann"}]')
    ([{'role': 'user', 'content': 'Hi', 'name': 'Ann'}], '')
    """
    if cell is None or not cell.strip():
        return [], "null_conversation"
    try:
        said = _listed(DECODER.decode(cell.strip()))
        if SURROGATE.search(cell):
            json.dumps(said, ensure_ascii=False).encode()
        if said is None:
            return [], "not_a_conversation"
        messages = []
        for message in said:
            read, problem = _read(message)
            if problem:
                return [], problem
            messages.append(read)
    except UnicodeEncodeError:
        return [], "broken_character"
    except (ValueError, RecursionError):
        return [], "not_a_conversation"
    return messages, "" if messages else "empty_conversation"


def _listed(said: Any) -> list[Message] | None:
    """Return a conversation as a list of objects, in whichever way it is stored; None if it is no conversation."""
    if isinstance(said, dict):
        within = next((said[name] for name in ("messages", "conversations") if isinstance(said.get(name), list)), None)
        said = _by_message(said) if within is None else within
    if not isinstance(said, list) or not all(isinstance(message, dict) for message in said):
        return None
    return said


def _by_message(said: dict[str, Any]) -> list[Message] | None:
    """Return the messages of a conversation that is stored as one list for each key; None if it is not.

    >>> _by_message({"role": ["user", "assistant"], "content": ["6 * 7?", "42"]})
    [{'role': 'user', 'content': '6 * 7?'}, {'role': 'assistant', 'content': '42'}]
    """
    lists = {name: values for name, values in said.items() if isinstance(values, list)}
    if not (any(name in lists for name in ROLE) and any(name in lists for name in CONTENT)):
        return None
    if len({len(values) for values in lists.values()}) > 1:
        return None
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _read(message: Message) -> tuple[Message, str]:
    """Return a message with the role's usual name and its content as text; else the reason why it cannot be used."""
    there = {name: value for name, value in message.items() if value is not None}
    role, content = (next((there[name] for name in names if name in there), None) for names in (ROLE, CONTENT))
    if not isinstance(role, str):
        return {}, "not_a_conversation"
    if role.strip().lower() not in ROLES:
        return {}, "unknown_role"
    text = _text(content)
    if text is None:
        return {}, "content_not_text"
    kept = {name: _without_nulls(value) for name, value in there.items() if name not in ROLE + CONTENT}
    read = {"role": ROLES[role.strip().lower()], "content": text, **kept}
    return ({}, "unknown_weight") if None in _marks(read) else (read, "")


def is_trained(message: Message) -> bool:
    """Return whether a message is an assistant's turn that is not marked to be left out.

    >>> said = {"role": "assistant", "content": "42"}
    >>> [is_trained(said | more) for more in ({}, {"weight": 0.0}, {"train": "false"}, {"loss": 0.3})]
    [True, False, False, True]
    """
    return message["role"] == "assistant" and all(_marks(message))


def _marks(message: Message) -> list[bool | None]:
    """Return whether each mark of an assistant's turn asks for training; None for one that says neither yes nor no.

    A `loss` that is a number is a measurement, and no mark.
    """
    if message["role"] != "assistant":
        return []
    values = [
        message[name] for name in MARKS if name in message and (name != "loss" or isinstance(message[name], bool))
    ]
    texts = [value.strip().lower() if isinstance(value, str) else value for value in values]
    return [TRAINED.get(text) if isinstance(text, str | int | float) else None for text in texts]


def plain(message: Message) -> Message:
    """Return a message without its marks."""
    return {name: value for name, value in message.items() if name not in MARKS}


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Yield every text that a chat template may write: contents, names, and what tool calls hold."""
    for message in messages:
        for name, value in message.items():
            if isinstance(value, str) and name != "role":
                yield value
            elif not isinstance(value, str):
                yield json.dumps(value, ensure_ascii=False)


def _text(content: Any) -> str | None:
    """Return a message's content as text, "" for null; None for pictures and other things that are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, float):
        return number_text(content) or ""
    if isinstance(content, int):
        return str(content)
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content if (part.get("type") or "text") in TEXT_PARTS]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return None


def _without_nulls(value: Any) -> Any:
    """Return a value without the nulls that parquet's structs hold for keys that a message does not have."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
