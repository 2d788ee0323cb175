"""The user's rows as documents: a row makes one, a conversation one for each of its assistant turns.

All kinds of source have the same methods, so that splits, audit and shards are made in one way. Documents are numbered
from 0 through all rows; a document's number is its example id.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dreamtune.chat.conversations import Turn, turns_of
from dreamtune.chat.messages import texts_of
from dreamtune.contamination.questions import question_hash
from dreamtune.data.encode import EncodedRows, encode_rows, question_texts, usable_texts
from dreamtune.data.encode_turns import TurnEncoder
from dreamtune.data.oddities import row_flags
from dreamtune.data.template import render_answer, render_prompt, render_reasoning
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.inputs.cells import Texts, cuts
from dreamtune.inputs.rows import Rows
from dreamtune.settings.data import DataConfig
from dreamtune.sources.choice import TAKEN, Choice
from dreamtune.sources.origins import Origins

Batch = dict[str, Texts]
Work = tuple[int, Callable[[], EncodedRows]]  # number of a batch's rows, and what makes tokens of them


class Asked(NamedTuple):
    """What the first reading needs of a batch of documents.

    Attributes:
        questions: [documents] texts.
        hashes: [documents] of the normalised question; of a later turn's whole conversation up to its question.
        keys: [documents], the hashes that decide the split: of the conversation's first question.
        clusters: [documents] values of `columns.cluster`; None without one.
        rows, turns: [documents] int32, number of each document's row from 0, and of its assistant turn from 1.
    """

    questions: Texts
    hashes: np.ndarray
    keys: np.ndarray
    clusters: Texts | None
    rows: np.ndarray
    turns: np.ndarray


@dataclass(frozen=True)
class RowSource:
    """Rows of question, reasoning and answer, each one document.

    Attributes:
        turns: encodes rows as conversations of one turn; None where the template's text is the document.
    """

    rows: Rows
    data: DataConfig
    tokenizer: Tokenizer
    turns: TurnEncoder | None = None

    def asked(self) -> Iterator[Asked]:
        """Yield what the first reading needs, a batch of rows at a time."""
        question, cluster, start = self.data.layout.question, self.data.columns.cluster, 0
        for batch in self.rows.batches(self.data.columns_asked):
            questions = question_texts(batch, question)
            hashes = np.array([_hash(text, self.data.split.seed) for text in questions], np.uint64)
            rows = np.arange(start, start + len(questions), dtype=np.int32)
            yield Asked(questions, hashes, hashes, batch[cluster] if cluster else None, rows, np.ones_like(rows))
            start += len(questions)

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.rows.rows

    def batches(self, among: range) -> Iterator[Batch]:
        """Yield the batches of rows that begin in a range."""
        return self.rows.batches(self.data.columns_read, among)

    def work(self, among: range) -> Iterator[Work]:
        """Yield the batches of rows that begin in a range, see `Work`."""
        return _work(self, among)

    def encode(self, batch: Batch) -> EncodedRows:
        """Return a batch of rows as documents in tokens."""
        if self.turns is None:
            return encode_rows(batch, self.data, self.tokenizer)
        laid = self.data.layout
        dropped, texts = usable_texts(batch, laid)
        turns = [_turn(self.data, problem, row) for problem, *row in zip(dropped, *texts, strict=True)]
        encoded = self.turns.encode(turns)
        q, r, a = texts
        flags = row_flags(q, r if laid.reasoning else None, a)
        return replace(encoded, questions=q, reasonings=r, answers=a, flags=flags, references=None, contexts=None)

    def texts_at(self, part: str, documents: Iterable[int]) -> dict[int, str]:
        """Return the questions or answers (`part`) of a few documents by number, "" for null."""
        laid = self.data.layout
        if part == "answer":
            return self.rows.texts_at(laid.answer, documents)
        return self.rows.read_at(self.data.columns_asked, lambda batch: question_texts(batch, laid.question), documents)


@dataclass(frozen=True)
class TurnSource:
    """Conversations, of which each assistant turn is a document.

    Attributes:
        graded: against what answers to a last turn are graded: the turn itself, a column, or nothing.
    """

    rows: Rows
    data: DataConfig
    tokenizer: Tokenizer
    turns: TurnEncoder
    graded: str | None = None  # "" grades against the turn itself

    def asked(self) -> Iterator[Asked]:
        """Yield what the first reading needs, a batch of rows at a time."""
        cluster, start, seed = self.data.columns.cluster, 0, self.data.split.seed
        for batch in self.rows.batches(self.data.columns_asked):
            by_row = list(self._turns(batch))
            turns = [turn for turns in by_row for turn in turns]
            counts = [len(turns) for turns in by_row]
            keys = np.array([_key(turns, seed) for turns in by_row], np.uint64)
            hashes = np.array([_identity(turn, seed) for turn in turns], np.uint64)
            rows = np.repeat(np.arange(start, start + len(by_row), dtype=np.int32), counts)
            values = (
                [value for value, n in zip(batch[cluster], counts, strict=True) for _ in range(n)] if cluster else None
            )
            numbers = np.array([turn.number for turn in turns], np.int32)
            yield Asked([t.question for t in turns], hashes, np.repeat(keys, counts), values, rows, numbers)
            start += len(by_row)

    @property
    def total(self) -> int:
        """Number of conversations."""
        return self.rows.rows

    def work(self, among: range) -> Iterator[Work]:
        """Yield the batches of rows that begin in a range, see `Work`."""
        return _work(self, among)

    def batches(self, among: range) -> Iterator[Batch]:
        """Yield the batches of rows that begin in a range, cut so that the text of all documents stays bounded.

        A conversation of many turns is repeated in the prompt of each.
        """
        columns = [*self.data.columns_read, *([self.graded] if self.graded else [])]
        for batch in self.rows.batches(columns, among):
            sizes = np.array([_repeated(cell or "") for cell in batch[columns[0]]])
            for cut in cuts(sizes):
                yield {name: texts[cut] for name, texts in batch.items()}

    def encode(self, batch: Batch) -> EncodedRows:
        """Return the assistant turns of a batch of rows as documents in tokens."""
        answers: Sequence[str | None] = batch[self.graded] if self.graded else [None] * len(next(iter(batch.values())))
        turns = (
            replace(turn, reference=self._reference(turn, answer))
            for said, answer in zip(self._turns(batch), answers, strict=True)
            for turn in said
        )
        return self.turns.encode(list(turns))

    def texts_at(self, part: str, documents: Iterable[int]) -> dict[int, str]:
        """Return the questions or answers (`part`) of a few documents by number, "" for null."""
        return self.rows.read_at(
            self.data.columns_read,
            lambda batch: [getattr(turn, part) for turns in self._turns(batch) for turn in turns],
            documents,
        )

    def _turns(self, batch: Batch) -> Iterator[list[Turn]]:
        column, system = self.data.columns.messages, self.turns.chat.system
        return (turns_of(cell, system) for cell in batch[column or ""])

    def _reference(self, turn: Turn, answer: str | None) -> str:
        if self.graded is None or not turn.last:
            return ""
        return turn.answer if self.graded == "" else answer or ""


@dataclass
class SeveralSources:
    """Rows and conversations of several sources, one source after the other.

    All are read to the end, also rows that are not taken, so that a document's number depends on the files alone.

    Attributes:
        each: the sources.
        choices: which rows of each are taken, and how often they train; [] in a job that tokenises a part.
        turns: encodes turns; None if no source needs a chat template.
        starts: number of each source's first document, and of all documents; known once `asked` has ended.
    """

    each: Sequence[RowSource | TurnSource]
    choices: Sequence[Choice]
    turns: TurnEncoder | None = None
    starts: list[int] = field(default_factory=lambda: [0])

    @property
    def total(self) -> int:
        """Number of rows."""
        return sum(source.total for source in self.each)

    def origins(self) -> Origins:
        """Return what counts documents by source; to be called when `asked` has ended."""
        rows = np.cumsum([0, *(source.total for source in self.each)])
        return Origins(self.choices, self.starts, rows.tolist())

    def asked(self) -> Iterator[Asked]:
        """Yield what the first reading needs, a batch of rows at a time; rows that are not taken ask nothing."""
        row, self.starts = 0, [0]
        for source, choice in zip(self.each, self.choices, strict=True):
            documents = 0
            for asked in source.asked():
                taken = choice.states[asked.rows] == TAKEN
                questions = [text if take else None for text, take in zip(asked.questions, taken, strict=True)]
                yield asked._replace(questions=questions, rows=asked.rows + np.int32(row))
                documents += len(questions)
            row += source.total
            self.starts.append(self.starts[-1] + documents)

    def work(self, among: range) -> Iterator[Work]:
        """Yield the batches of rows that begin in a range, see `Work`."""
        row = 0
        for source in self.each:
            end = row + source.total
            if row < among.stop and end > among.start:
                yield from source.work(range(max(0, among.start - row), min(source.total, among.stop - row)))
            row = end

    def texts_at(self, part: str, documents: Iterable[int]) -> dict[int, str]:
        """Return the questions or answers (`part`) of a few documents by number, "" for null."""
        wanted, found = sorted(set(documents)), dict[int, str]()
        for source, (start, end) in zip(self.each, pairwise(self.starts), strict=True):
            own = [number - start for number in wanted if start <= number < end]
            found |= {number + start: text for number, text in source.texts_at(part, own).items()}
        return found


Source = RowSource | TurnSource | SeveralSources


def _work(source: RowSource | TurnSource, among: range) -> Iterator[Work]:
    return ((len(next(iter(batch.values()))), partial(source.encode, batch)) for batch in source.batches(among))


def _repeated(cell: str) -> int:
    """Return about how many characters a conversation's documents have together."""
    return len(cell) * (1 + cell.count('"role"') + cell.count('"from"'))


def _hash(text: str | None, seed: int) -> int:
    return question_hash(text, seed) if text and text.strip() else 0


def _key(turns: list[Turn], seed: int) -> int:
    """Return the hash of a conversation's first question, which decides its split; 0 without one."""
    said = (message["content"] for message in turns[-1].messages if message["role"] == "user")
    return _hash(next((text for text in said if text.strip()), None), seed)


def _identity(turn: Turn, seed: int) -> int:
    """Return the hash of a turn's question, together with all else before the turn but the system prompt.

    That includes what follows the question, such as tool calls and their results.
    """
    if not (turn.question or "").strip():
        return 0
    before = [message for message in turn.messages[:-1] if message["role"] != "system"]
    asked = max(place for place, message in enumerate(before) if message["role"] == "user")
    return question_hash("\n".join([turn.question or "", *texts_of(before[:asked] + before[asked + 1 :])]), seed)


def _turn(data: DataConfig, problem: str, row: Sequence[str]) -> Turn:
    """Return a row as a conversation of one turn: the template's prompt is the user's, its response the assistant's.

    Args:
        problem: the reason why the row cannot be used, empty for a usable one.
        row: question, reasoning and answer.
    """
    if problem:
        return Turn([], None, "", problem=problem)
    template, system = data.layout.template, data.chat.system if data.chat else None
    user, thought = render_prompt(template, row[0]).strip(), render_reasoning(template, row[1]).lstrip()
    said = (thought + render_answer(template, row[2])).strip()
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    return Turn(messages, user, said, reasoning=thought if said.startswith(thought) else "")
