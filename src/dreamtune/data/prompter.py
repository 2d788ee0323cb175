"""Prompts of questions that are no rows: those of a benchmark, and the user's own."""

import re
from functools import cached_property
from typing import Any

from dreamtune.chat.template import ChatTemplate
from dreamtune.data.template import render_prompt
from dreamtune.data.tokenizer import Tokenizer


class Prompter:
    """Turns questions into prompts, with the same tokens as `prepare_shards` gives them.

    Args:
        tokenizer: the model's.
        template: text with `{question}`; the prompt ends where reasoning or answer begins; None for the question alone.
        beginning_token: whether the tokenizer's beginning token, if it has one, stands before the prompt.
        chat: turns the prompt into a user's turn, and writes the beginning token itself; None leaves it as it is.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, beginning_token: bool, chat: ChatTemplate | None = None
    ) -> None:
        begins = beginning_token and tokenizer.beginning_id is not None
        self.tokenizer, self.template, self.chat = tokenizer, template, chat
        self.beginning = [tokenizer.beginning_id] if begins and tokenizer.beginning_id is not None else []

    @classmethod
    def of(cls, tokenizer: Tokenizer, meta: dict[str, Any]) -> "Prompter":
        """Return the prompter of shards, by their shards.json."""
        chat = ChatTemplate(**meta["chat"]) if meta.get("chat") else None
        return cls(tokenizer, meta["template"], meta["beginning_token"], chat)

    def __call__(self, questions: list[str]) -> list[list[int]]:
        """Return the token ids of each question's prompt.

        Raises:
            UserError: the chat template refuses a question.
        """
        prompts = self.tokenizer.encode_batch([self._text(question) for question in questions])
        return [self.beginning + prompt for prompt in prompts]

    def spells_control(self, question: str) -> bool:
        """Whether a question spells out a special token, or one that the chat template writes.

        It would be read as that token; rows with such a text are dropped for the same reason.
        """
        return self._control.search(question) is not None

    @cached_property
    def _control(self) -> re.Pattern[str]:
        written = self.tokenizer.encode(self.chat.render(self.chat.probe)) if self.chat is not None else []
        return self.tokenizer.control(written)

    def behind(self, turns: list[tuple[str, str]], question: str) -> list[int]:
        """Return the prompt of a question behind earlier turns: the questions and replies of worked examples.

        Raises:
            UserError: the chat template refuses them.
        """
        assert self.chat is not None, "only a chat template has turns"
        said = [turn for asked, reply in turns for turn in (self._asked(asked), reply)]
        return self.tokenizer.encode(self.chat.prompt(*said, self._asked(question)))

    def _text(self, question: str) -> str:
        return self._asked(question) if self.chat is None else self.chat.prompt(self._asked(question))

    def _asked(self, question: str) -> str:
        """Return the template's prompt; as a user's turn, without white space at its ends."""
        asked = question if self.template is None else render_prompt(self.template, question)
        return asked if self.chat is None or self.template is None else asked.strip()
