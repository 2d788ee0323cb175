"""Encoding a batch of rows: render the template, tokenise prompt, reasoning and answer, name a reason to drop a row."""

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from dreamtune.data.oddities import row_flags
from dreamtune.data.template import has_reasoning, render_segments
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.errors import UserError
from dreamtune.inputs.cells import Texts
from dreamtune.settings.data import DataConfig
from dreamtune.settings.placeholders import BRACED_WORD, Layout, names_in


@dataclass(frozen=True)
class EncodedRows:
    """A batch of rows in tokens.

    Attributes:
        questions, reasonings, answers: [rows] texts; empty for a row that lacks one of them.
        dropped: [rows] object; the reason why a row cannot be used, empty for a usable row.
        prompts: [rows] lists of tokens, beginning token included.
        reasoning_ids, answer_ids: [rows] lists of tokens, without the end token.
        unknown: number of tokens in the batch that the vocabulary could not write.
        flags: [rows] oddities of the texts, with the columns of `oddities.FLAG_COLUMNS`.
        references, contexts: [rows] texts of conversations' turns: what answers are graded against, and what was said
            before the question; None for rows, whose answers are graded and which have no context.
    """

    questions: list[str]
    reasonings: list[str]
    answers: list[str]
    dropped: np.ndarray
    prompts: list[list[int]]
    reasoning_ids: list[list[int]]
    answer_ids: list[list[int]]
    unknown: int
    flags: pl.DataFrame
    references: list[str] | None = None
    contexts: list[str] | None = None

    def lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the numbers of tokens of prompt, reasoning and answer, [rows] int64 each."""
        segments = (self.prompts, self.reasoning_ids, self.answer_ids)
        prompt, reasoning, answer = (np.fromiter(map(len, tokens), np.int64, len(tokens)) for tokens in segments)
        return prompt, reasoning, answer


def check_template(data: DataConfig, tokenizer: Tokenizer, control: re.Pattern[str] | None = None) -> None:
    """Check that the template's text does not spell out a special token (end, mask, beginning, padding).

    Args:
        control: matches what a chat template writes besides, where one renders the rows.

    Raises:
        UserError: it does. Special tokens are added as tokens, never written as text.
    """
    found = set(tokenizer.encode(data.layout.template)) & tokenizer.special_ids()
    if found:
        names = ", ".join(sorted(str(tokenizer.backend.id_to_token(i)) for i in found))
        raise UserError(
            f"data.template spells out {names}; leave it out: the end token is added after every complete answer, "
            "and data.beginning_token puts the beginning token before every prompt"
        )
    if control is not None and (forged := control.search(data.layout.template)):
        raise UserError(
            f"data.template spells out {forged.group()}, and the chat template writes the tokens around each turn; "
            "leave it out, or leave out data.chat"
        )


def encode_rows(batch: dict[str, Texts], data: DataConfig, tokenizer: Tokenizer) -> EncodedRows:
    """Render and tokenise a batch of rows. One call of the tokenizer for all texts keeps the cores busy.

    Args:
        batch: column name -> [rows] texts, or None for null.
        data: gives columns, template and beginning token.
        tokenizer: of the base model.
    """
    laid = data.layout
    dropped, (q, r, a) = usable_texts(batch, laid)
    usable = dropped == ""
    texts, n = render_segments(laid.template, q, r, a), len(q)
    ids = tokenizer.encode_batch(texts)
    # A text that spells out a special token, such as the mask or the end token, would be encoded as that token. A mask
    # token that the tokenizer does not have (model.mask_token: new) has no text.
    spellings = [tokenizer.backend.id_to_token(i) for i in tokenizer.special_ids()]
    if any(text is not None and text in "\n".join(texts) for text in spellings):
        spelled_out = np.array([not tokenizer.special_ids().isdisjoint(tokens) for tokens in ids])
        dropped[usable & spelled_out.reshape(3, n).any(axis=0)] = "special_token_in_text"
    unknown = 0 if tokenizer.unknown_id is None else sum(tokens.count(tokenizer.unknown_id) for tokens in ids)
    start = [tokenizer.beginning_id] if data.beginning_token and tokenizer.beginning_id is not None else []
    prompts = [start + prompt for prompt in ids[:n]]
    odd = row_flags(q, r if laid.reasoning else None, a)
    return EncodedRows(q, r, a, dropped, prompts, ids[n : 2 * n], ids[2 * n :], unknown, odd)


def usable_texts(batch: dict[str, Texts], laid: Layout) -> tuple[np.ndarray, tuple[list[str], list[str], list[str]]]:
    """Return why each row cannot be used, [rows] object, "" for a usable one; and questions, reasonings and answers.

    The texts of a row that cannot be used are empty.
    """
    questions, answers = question_texts(batch, laid.question), batch[laid.answer]
    reasonings: Texts = batch[laid.reasoning] if laid.reasoning else [""] * len(questions)
    needs_reasoning = has_reasoning(laid.template)
    texts_of_rows = zip(questions, reasonings, answers, strict=True)
    dropped = np.array([_unusable(*row, needs_reasoning) for row in texts_of_rows], dtype=object)
    q, r, a = (_blanked(column, dropped == "") for column in (questions, reasonings, answers))
    return dropped, (q, r, a)


def question_texts(batch: dict[str, Texts], question: str) -> Texts:
    """Return the questions of a batch: of one column, or of a text over several; null where all of them are null.

    >>> question_texts({"instruction": ["Add.", "Hi", None], "input": ["1, 2", None, None]}, "{instruction}\\n{input}")
    ['Add.\\n1, 2', 'Hi', None]
    """
    if not (names := names_in(question)):
        return batch[question]
    rows = zip(*(batch[name] for name in names), strict=True)
    return [_fill(question, dict(zip(names, row, strict=True))) for row in rows]


def _fill(question: str, row: dict[str, str | None]) -> str | None:
    """Return the text over columns with a row's values in it, "" for null, without white space at its ends."""
    if all(value is None for value in row.values()):
        return None
    return BRACED_WORD.sub(lambda word: row[word.group().strip("{} ")] or "", question).strip()


def _unusable(question: str | None, reasoning: str | None, answer: str | None, needs_reasoning: bool) -> str:
    """Return the reason why a row cannot be used, "" for a usable row.

    An empty reasoning is usable. A null one is not, where the template shows it: it must not become the word "None".
    """
    if question is None:
        return "null_question"
    if not question.strip():
        return "empty_question"
    if reasoning is None and needs_reasoning:
        return "null_reasoning"
    if answer is None:
        return "null_answer"
    return "" if answer.strip() else "empty_answer"


def _blanked(texts: Texts, usable: np.ndarray) -> list[str]:
    """Return the texts [rows] with "" for null and for rows that are not `usable` [rows] bool."""
    if usable.all() and None not in texts:
        return texts  # type: ignore[return-value]  # no None is left in it
    return [text if text and use else "" for text, use in zip(texts, usable, strict=True)]
