"""The chat template: turns messages into text with the tokenizer's own Jinja template, as transformers does it.

The template runs in transformers' sandbox. Where a response begins and ends comes from rendering prefixes: what the
template writes for the messages before an assistant turn, with its generation prompt, must be the beginning of what it
writes with that turn (`ChatTemplate`).

Two tokens with different roles end a response: the template's own, which closes the turn, and the end token, which
follows and fills the rest of a canvas (`roles`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dreamtune.chat.messages import Message
from dreamtune.errors import UserError
from dreamtune.inputs.special_tokens import NAMED_IN, read_json_object

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CLOCK = "strftime_now"  # the function by which a template asks for the time
REMEDY = "name another file in data.chat_template"
# A conversation with which a template is tried: of two turns, the second user's message confirming the first answer.
ASKED, REPLY, CONFIRMED, AGREED = "What is 6 times 7?", "It is 42.", "Thanks, 42 is right.", "You are welcome."


class Refused(UserError):
    """A chat template that cannot render some messages."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and what it is given besides the messages.

    Attributes:
        template: the Jinja text.
        tokens: texts of the special tokens by the names under which templates know them, such as bos_token.
        system: system prompt of prompts in generation; None leaves it to the template.
        variables: further variables of the template.
    """

    template: str
    tokens: dict[str, str]
    system: str | None = None
    variables: dict[str, Any] | None = None

    def render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        """Return the text of messages; with the beginning of an assistant turn behind them for a `prompt`.

        Raises:
            Refused: the template raises an exception for these messages, or asks for the time, on which results must
                not depend.
        """
        given = {**self.tokens, **(self.variables or {}), CLOCK: ""}  # a text in the function's place
        try:
            texts, _ = _renderer()([list(messages)], chat_template=self.template, add_generation_prompt=prompt, **given)
        except Exception as error:  # whatever the template's code raises: it is data, not ours
            reason = " ".join(str(error).split()) or type(error).__name__
            if CLOCK in self.template and "'str' object is not callable" in reason:
                raise Refused(
                    "the chat template writes today's date, so that a training and its answers would differ by the "
                    "day; set the variable that it takes a date from, such as data.chat.variables: {date_string: 26 "
                    f"Jul 2024}}, or {REMEDY}"
                ) from error
            raise Refused(f"the chat template refuses a conversation ({reason[:200]}); {REMEDY}") from error
        return str(texts[0])

    def prompt(self, *said: str) -> str:
        """Return the prompt of a question: system prompt, the user's turn, and the beginning of the assistant's.

        Args:
            said: what user and assistant said in turn; the question is the last.
        """
        roles = ("user", "assistant") * (len(said) // 2) + ("user",)
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        return self.render([*self._system, *messages], prompt=True)

    def split(self, messages: Sequence[Message]) -> tuple[str, str] | None:
        """Return the text before the last message, an assistant's, and the message's up to and including its end.

        Returns None if the first is not the beginning of the whole, or the turn ends otherwise than others.

        Raises:
            Refused: see `render`.
        """
        before, whole = self.render(messages[:-1], prompt=True), self.render(messages)
        if not whole.startswith(before) or not whole[len(before) :].endswith("".join(self._closing)):
            return None
        content = whole[len(before) : len(whole) - len("".join(self._closing))]
        return before, content + self.turn_end if content.strip() else ""

    @property
    def turn_end(self) -> str:
        """Text that closes an assistant turn, without the white space before the next one."""
        return self._closing[0]

    @property
    def _system(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    @cached_property
    def probe(self) -> list[Message]:
        """The conversation with which the template is tried."""
        said = [("user", ASKED), ("assistant", REPLY), ("user", CONFIRMED), ("assistant", AGREED)]
        return [*self._system, *({"role": role, "content": content} for role, content in said)]

    @cached_property
    def _closing(self) -> tuple[str, str]:
        """What the template writes behind a turn's content: what closes the turn, and the rest, such as a line's end.

        Raises:
            UserError: the template is not prefix-stable, or does not write the content.
        """
        first, said = len(self._system), []
        for place, reply in ((first + 1, REPLY), (first + 3, AGREED)):
            before = self.render(self.probe[:place], prompt=True)
            whole = self.render(self.probe[: place + 1])
            if not whole.startswith(before):
                raise UserError(
                    "the chat template is not prefix-stable: what it writes before an assistant turn "
                    f"({before[-40:]!r}) is not the beginning of what it writes with the turn, so that a prompt in "
                    f"generation would differ from training; {REMEDY}"
                )
            _, found, behind = whole[len(before) :].partition(reply)
            if not found:
                raise UserError(f"the chat template does not write an assistant's turn as it stands; {REMEDY}")
            said.append(behind)
        if said[0] != said[1]:
            raise UserError(
                f"the chat template ends an assistant turn with {said[0]!r}, and a later one with {said[1]!r}; {REMEDY}"
            )
        closed = said[0].rstrip()
        return closed, said[0][len(closed) :]

    def describe(self) -> dict[str, Any]:
        """Return the template's entry in shards.json, of which `ChatTemplate(**entry)` makes it again."""
        return asdict(self)


def load_chat_template(folder: Path, file: str | None, system: str | None, variables: dict[str, Any]) -> ChatTemplate:
    """Return the chat template of a tokenizer, or of a file.

    Args:
        folder: of the tokenizer.
        file: the setting data.chat_template.
        system, variables: those of data.chat.

    Raises:
        UserError: there is none, or none named default among several, or it cannot be read.
    """
    template = _read(Path(file)) if file else _own(folder)
    if template is None:
        raise UserError(
            f"the tokenizer in {folder} has no chat template; name a file with one in data.chat_template, or leave out "
            "data.chat and columns.messages"
        )
    named = [read_json_object(folder / name) for name in reversed(NAMED_IN)]
    tokens: dict[str, str] = {}
    for config in named:
        for name in NAMES:
            token = config.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            tokens |= {name: content} if isinstance(content, str) else {}
    return ChatTemplate(template, tokens, system, variables)


@cache
def _renderer() -> Callable[..., Any]:
    """Return transformers' own function, whose import takes a second that rows without a chat template are spared."""
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template


def _own(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return _read(folder / "chat_template.jinja")
    template = read_json_object(folder / NAMED_IN[0]).get("chat_template")
    if isinstance(template, list | dict):  # several by name
        entries = template if isinstance(template, list) else []
        named = {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
        named |= template if isinstance(template, dict) else {}
        if "default" not in named:
            raise UserError(
                f"the tokenizer in {folder} has {len(named)} chat templates by name, and none is named default; write "
                "the one that is meant into a file, and name it in data.chat_template"
            )
        template = named["default"]
    if template is None:
        template = read_json_object(folder / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a chat template: {error}") from error
