"""Settings of conversations, which the tokenizer's chat template turns into text."""

from typing import Annotated

from pydantic import Field

from dreamtune.settings.base import MANY, Section, result


class Chat(Section):
    """What the chat template is given besides a conversation's messages."""

    system: str | None = result(
        None,
        "system prompt of every conversation that brings none, and of prompts in generation; null leaves it to the "
        "chat template",
    )
    variables: dict[str, str | bool | Annotated[int, Field(ge=-MANY, le=MANY)]] = result(
        dict, "further variables of the chat template, such as enable_thinking: false, or date_string: 26 Jul 2024"
    )
