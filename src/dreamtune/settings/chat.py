"""Settings of conversations, which the tokenizer's chat template turns into text."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from dreamtune.settings.base import MANY, Section, result

# What transformers gives a template, or takes for itself; schemas of tools and documents are not supported.
TAKEN = (
    "messages",
    "conversations",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "return_assistant_tokens_mask",
    "raise_exception",
    "strftime_now",
)


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

    @field_validator("variables")
    @classmethod
    def are_free(cls, variables: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in variables if name in TAKEN]:
            raise ValueError(f"{taken[0]} cannot be set: the chat template is given its own; leave it out")
        return variables
