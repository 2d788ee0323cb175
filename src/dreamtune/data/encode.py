"""One batch of rows as tokens: rendered, tokenised part by part, and every unusable row given its reason."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from dreamtune.data.oddities import row_flags
from dreamtune.data.template import has_reasoning, render_parts
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.errors import UserError
from dreamtune.inputs.parquet_rows import Texts
from dreamtune.settings.data import DataConfig


@dataclass(frozen=True)
class EncodedRows:
    """A batch of rows in tokens.

    Attributes:
        questions, reasonings, answers: [rows] the rows' texts; empty where there is none.
        dropped: [rows] object; the reason a row cannot be used, empty for one that can.
        prompts: [rows] lists of tokens, beginning token included.
        reasoning_ids, answer_ids: [rows] lists of tokens; the end token is not among them.
        unknown: tokens the vocabulary could not write.
        flags: [rows] what looks odd about the texts, with the columns of `oddities.FLAG_COLUMNS`.
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

    def lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the tokens of prompt, reasoning and answer, [rows] each."""
        parts = (self.prompts, self.reasoning_ids, self.answer_ids)
        prompt, reasoning, answer = (np.fromiter(map(len, part), np.int64, len(part)) for part in parts)
        return prompt, reasoning, answer


def columns_of(data: DataConfig) -> list[str]:
    """Return the columns the template needs, none twice."""
    names = (data.columns.question, data.columns.reasoning, data.columns.answer)
    return list(dict.fromkeys(name for name in names if name is not None))


def check_template(data: DataConfig, tokenizer: Tokenizer) -> None:
    """Refuse a template that spells out a token which is placed, never written."""
    found = set(tokenizer.encode(data.template)) & tokenizer.special_ids()
    if found:
        names = ", ".join(sorted(str(tokenizer.backend.id_to_token(i)) for i in found))
        raise UserError(
            f"data.template spells out {names}; leave it out: the end token is added after every complete answer, "
            "and data.beginning_token puts the beginning token before every prompt"
        )


def encode_rows(batch: dict[str, Texts], data: DataConfig, tokenizer: Tokenizer) -> EncodedRows:
    """Render and tokenise `batch`; one call for all parts keeps the cores busy."""
    questions, answers = batch[data.columns.question], batch[data.columns.answer]
    reasonings: Texts = batch[data.columns.reasoning] if data.columns.reasoning else [""] * len(questions)
    needs_reasoning = has_reasoning(data.template)
    texts_of_rows = zip(questions, reasonings, answers, strict=True)
    dropped = np.array([_unusable(*row, needs_reasoning) for row in texts_of_rows], dtype=object)
    usable = dropped == ""
    q, r, a = (_blanked(part, usable) for part in (questions, reasonings, answers))
    texts, n = render_parts(data.template, q, r, a), len(q)
    ids = tokenizer.encode_batch(texts)
    # A row that spells out the mask or the end token would train on, or stop at, a token it did not mean.
    if any(str(tokenizer.backend.id_to_token(i)) in "\n".join(texts) for i in tokenizer.special_ids()):
        spelled_out = np.array([not tokenizer.special_ids().isdisjoint(part) for part in ids])
        dropped[usable & spelled_out.reshape(3, n).any(axis=0)] = "special_token_in_text"
    unknown = 0 if tokenizer.unknown_id is None else sum(part.count(tokenizer.unknown_id) for part in ids)
    start = [tokenizer.beginning_id] if data.beginning_token and tokenizer.beginning_id is not None else []
    prompts = [start + prompt for prompt in ids[:n]]
    odd = row_flags(q, r if data.columns.reasoning else None, a)
    return EncodedRows(q, r, a, dropped, prompts, ids[n : 2 * n], ids[2 * n :], unknown, odd)


def _unusable(question: str | None, reasoning: str | None, answer: str | None, needs_reasoning: bool) -> str:
    """Name the first thing a row lacks. An empty reasoning is one; a missing one is never the word "None"."""
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
    if usable.all() and None not in texts:
        return texts  # type: ignore[return-value]  # no None is left in it
    return [text if text and use else "" for text, use in zip(texts, usable, strict=True)]
