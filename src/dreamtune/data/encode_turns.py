"""Encoding assistant turns: render each with the chat template, tokenise it, name a reason to drop it.

A turn's document has exactly the tokens with which transformers' `apply_chat_template` begins for its messages, cut
behind the turn's end. All tokens of its prompt are those of `apply_chat_template(..., add_generation_prompt=True)`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dreamtune.chat.conversations import Turn
from dreamtune.chat.messages import texts_of
from dreamtune.chat.roles import BY_FAMILY
from dreamtune.chat.template import REMEDY, ChatTemplate, Refused
from dreamtune.data.encode import EncodedRows
from dreamtune.data.oddities import row_flags
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.errors import UserError


@dataclass(frozen=True)
class TurnEncoder:
    """Encodes assistant turns; made by `turn_encoder`.

    Attributes:
        turn_end_id: the special token that closes an assistant turn, None if the template closes it by plain text.
        control: matches a text that spells out a special token, or another token that the template writes itself.
    """

    chat: ChatTemplate
    tokenizer: Tokenizer
    turn_end_id: int | None
    control: re.Pattern[str] = field(repr=False)

    def encode(self, turns: Sequence[Turn]) -> EncodedRows:
        """Render and tokenise a batch of turns."""
        rendered = [self._render(turn) for turn in turns]
        dropped = np.array([problem for problem, _, _ in rendered], dtype=object)
        questions, answers = (
            [t if use else "" for t, use in zip(texts, dropped == "", strict=True)]
            for texts in ([turn.question or "" for turn in turns], [turn.answer for turn in turns])
        )
        texts = [(prompt, prompt + response) for _, prompt, response in rendered]
        thought = [prompt + turn.reasoning for turn, (prompt, _) in zip(turns, texts, strict=True)]
        ids = self.tokenizer.encode_batch([text for pair in texts for text in pair] + thought)
        prompts, wholes, thoughts = ids[: 2 * len(turns) : 2], ids[1 : 2 * len(turns) : 2], ids[2 * len(turns) :]
        merged = np.array([whole[: len(prompt)] != prompt for prompt, whole in zip(prompts, wholes, strict=True)])
        dropped[(dropped == "") & merged] = "prompt_merges_with_answer"
        longer = np.array([self._goes_on(whole[len(prompt) :]) for prompt, whole in zip(prompts, wholes, strict=True)])
        dropped[(dropped == "") & longer] = "goes_on_after_its_turn"
        # Reasoning are the tokens that its text has by itself, up to the first that the answer behind it changes.
        cuts = [max(_shared(*pair), len(prompt)) for *pair, prompt in zip(thoughts, wholes, prompts, strict=True)]
        unknown = self.tokenizer.unknown_id
        return EncodedRows(
            questions=questions,
            reasonings=[""] * len(turns),
            answers=answers,
            dropped=dropped,
            prompts=prompts,
            reasoning_ids=[whole[len(prompt) : cut] for prompt, whole, cut in zip(prompts, wholes, cuts, strict=True)],
            answer_ids=[self._without_end(whole[cut:]) for whole, cut in zip(wholes, cuts, strict=True)],
            unknown=0 if unknown is None else sum(whole.count(unknown) for whole in wholes),
            flags=row_flags(questions, None, answers),
            references=[turn.reference for turn in turns],
            contexts=[turn.context for turn in turns],
        )

    def describe(self) -> dict[str, str]:
        """Return the texts of the tokens that end a response: the one that closes its turn, and the one behind it."""
        end = str(self.tokenizer.backend.id_to_token(self.tokenizer.end_id))
        return {"turn_end": self.chat.turn_end, "end": end}

    def _render(self, turn: Turn) -> tuple[str, str, str]:
        """Return the reason to drop a turn, "" for none; its prompt; and its response up to the turn's end."""
        if turn.problem:
            return turn.problem, "", ""
        if any(self.control.search(text) for text in texts_of(turn.messages)):
            return "special_token_in_text", "", ""
        try:
            split = self.chat.split(turn.messages)
        except Refused:
            return "refused_by_chat_template", "", ""
        if split is None:
            return "chat_template_not_prefix_stable", "", ""
        return "" if split[1] else "empty_answer", *split

    def _goes_on(self, response: list[int]) -> bool:
        """Whether a turn's end stands in a response before its last, so that it would see what was said later."""
        return self.turn_end_id is not None and response.count(self.turn_end_id) > 1

    def _without_end(self, tokens: list[int]) -> list[int]:
        """Return tokens without the end token, which follows every complete response anyway."""
        return tokens[:-1] if tokens[-1:] == [self.tokenizer.end_id] else tokens


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens with which both begin.

    >>> _shared([4, 5, 6], [4, 5, 7, 8])
    2
    """
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)


def turn_encoder(chat: ChatTemplate, tokenizer: Tokenizer, family: str | None = None) -> TurnEncoder:
    """Return the encoder of assistant turns, once its template was tried on a conversation of two.

    Where the tokenizer names the turn's end as its end token, its `end_id` is set to the token that fills a canvas in
    the model's family, if it has that.

    Raises:
        UserError: the template is not prefix-stable, or writes the mask token, or a second beginning token; or the
            system prompt spells out a token that the template writes.
    """
    written = tokenizer.encode(chat.render(chat.probe))
    if tokenizer.mask_id in written:
        raise UserError(f"the chat template writes the mask token, which stands for tokens not known yet; {REMEDY}")
    beginning = tokenizer.beginning_id
    if beginning in written and (written[0] != beginning or written[1:2] == [beginning]):
        # It may stand before each turn, as SmolLM2's and Llama 2's does: these write it as they were trained.
        raise UserError(f"the chat template writes the beginning token twice in a row, or not first; {REMEDY}")
    control = tokenizer.control(written)
    if chat.system is not None and (found := control.search(chat.system)):
        raise UserError(f"data.chat.system spells out {found.group()}, which would forge a turn; leave it out")
    closing = [number for number in tokenizer.encode(chat.turn_end) if control.fullmatch(_text(tokenizer, number))]
    if tokenizer.end_id in closing and family in BY_FAMILY:
        tokenizer.end_id = _filling(tokenizer, family)
    return TurnEncoder(chat, tokenizer, closing[-1] if closing else None, control)


def _text(tokenizer: Tokenizer, number: int) -> str:
    return tokenizer.backend.id_to_token(number) or ""


def _filling(tokenizer: Tokenizer, family: str) -> int:
    """Return the token that fills a canvas where the end token closes a turn: the family's, else another family's.

    SmolLM2, a `llama`, ends turns as Qwen2 does, and has that family's token.
    """
    texts = dict.fromkeys(roles.fills for roles in (BY_FAMILY[family], *BY_FAMILY.values()))
    known = [number for number in map(tokenizer.backend.token_to_id, texts) if number is not None]
    return next((number for number in known if number != tokenizer.mask_id), tokenizer.end_id)
