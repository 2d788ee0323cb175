"""The first reading of the rows: each question's hash, split and template, and the n-grams of the held-out questions.

A row costs 33 bytes of memory, and a distinct skeleton some 400 (`contamination.templates`); nothing else here grows
with the file. A held-out question counts for contamination even if its row is dropped later: this errs on the strict
side, and does not need the other columns.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from dreamtune.contamination.copies import Copies
from dreamtune.contamination.hashing import mixed
from dreamtune.contamination.ngrams import NgramIndex
from dreamtune.contamination.templates import Templates, numbered
from dreamtune.contamination.words import read_words
from dreamtune.data.source import Source
from dreamtune.progress import Progress
from dreamtune.settings.data import DataConfig, Split

TRAIN, VALIDATION, TEST, NO_SPLIT = range(4)
SPLIT_NAMES = ("train", "validation", "test", None)


@dataclass(frozen=True)
class Survey:
    """Results of the first reading of the rows.

    Attributes:
        hashes: [rows] uint64, hash of the normalised question, see `source.Asked`; 0 for a row without one.
        splits: [rows] uint8, index into SPLIT_NAMES; NO_SPLIT for a row without a question.
        heldout: n-grams of the questions of validation and test.
        clusters: [rows] int32, each row's cluster as a number: its template, or the value of `data.columns.cluster`.
        identities: [rows] uint64, see `Templates`.
        places: the rows' places among all questions of the templates.
        rows, turns: [documents] int32, the row of each document, and its assistant turn from 1, see `source`; None
            where each row is one document.
    """

    hashes: np.ndarray
    splits: np.ndarray
    heldout: NgramIndex
    clusters: np.ndarray
    identities: np.ndarray
    places: slice
    rows: np.ndarray | None = None
    turns: np.ndarray | None = None

    def groups(self) -> np.ndarray:
        """Return each row's question as a number, [rows] int32: rows with the same question have the same number."""
        return np.unique(self.hashes, return_inverse=True)[1].astype(np.int32)

    def duplicates(self) -> dict[str, int]:
        """Return the number of rows that repeat an earlier row's question, and of questions that occur repeatedly."""
        counts = np.unique(self.hashes[self.splits != NO_SPLIT], return_counts=True)[1]
        return {"rows": int((counts - 1).sum()), "questions": int((counts > 1).sum())}

    def straddling(self) -> int:
        """Return the number of questions that are both in train and in a held-out split: 0, since the hash decides."""
        train = self.hashes[self.splits == TRAIN]
        heldout = self.hashes[self.in_heldout()]
        return len(np.intersect1d(train, heldout))

    def in_heldout(self) -> np.ndarray:
        """Return which rows are in validation or test, [rows] bool."""
        return (self.splits == VALIDATION) | (self.splits == TEST)

    def copies(self, source: Source) -> Copies:
        """Return what finds training rows that nearly repeat a held-out question; reads the questions at risk."""
        asked = np.flatnonzero(self.in_heldout())
        question, answer = (partial(source.texts_at, part) for part in ("question", "answer"))
        train = np.flatnonzero(self.splits == TRAIN)
        return Copies(asked, self.with_context(asked), self.with_context(train), question, answer)

    def with_context(self, documents: np.ndarray) -> np.ndarray:
        """Return the identities of documents, those of later turns with all that was said before: [documents] uint64.

        "Go on" repeats another "Go on" only in the same conversation.
        """
        own = self.identities[documents]
        if self.turns is None:
            return own
        return np.where(self.turns[documents] > 1, mixed(own + self.hashes[documents]), own)

    def rows_of(self, documents: np.ndarray) -> np.ndarray:
        """Return the rows that documents are made from, [documents]."""
        return documents if self.rows is None else self.rows[documents]

    def conversations(self) -> dict[str, int]:
        """Return the number of conversations, of their assistant turns, and of the turns of the longest."""
        assert self.rows is not None, "conversations have turns"
        turns = np.bincount(self.rows[self.splits != NO_SPLIT], minlength=1)
        return {"rows": int(self.rows[-1]) + 1, "turns": int(turns.sum()), "most": int(turns.max())}

    def clusters_found(self) -> dict[str, int]:
        """Return the number of clusters of the rows with a question, and the rows of the largest."""
        counts = np.bincount(self.clusters[self.splits != NO_SPLIT])
        return {"found": int((counts > 0).sum()), "largest": int(counts.max(initial=0))}


def survey_questions(source: Source, data: DataConfig, templates: Templates) -> Survey:
    """Read the questions once, and return what `Survey` says of each document.

    The questions are added to the templates, which are finished here.
    """
    index, start, first = NgramIndex(data.ngram), 0, templates.rows
    columns: list[tuple[np.ndarray, ...]] = []  # hashes and splits of each batch, of conversations rows and turns, too
    named = [np.empty(0, np.uint64)]
    with Progress("reading questions", source.total) as progress:
        for asked in source.asked():
            questions = asked.questions
            there = np.array([bool(q and q.strip()) for q in questions])
            splits = np.where(there, assign(asked.keys, data.split), NO_SPLIT).astype(np.uint8)
            turns = (asked.rows, asked.turns) if data.conversations else ()
            columns.append((np.where(there, asked.hashes, 0), splits, *turns))
            heldout = np.flatnonzero(there & (splits != TRAIN))
            index.add([questions[i] or "" for i in heldout], heldout + start)
            templates.add(read_words([question or "" for question in questions]))
            if asked.clusters is not None:
                named.append(pl.Series(asked.clusters, dtype=pl.String).hash(1).to_numpy() * _filled(asked.clusters))
            start += len(questions)
            progress.advance(int(asked.rows[-1]) + 1 - progress.done)
    index.merge()
    templates.finish()
    hashes, splits, *of_turns = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    places = slice(first, templates.rows)
    clusters = templates.numbers[places].astype(np.uint64) + np.uint64(1)
    clusters = numbered(np.concatenate(named) if data.cluster else clusters)
    if of_turns:
        clusters = clusters[np.searchsorted(of_turns[0], of_turns[0])]  # that of the conversation's first turn
    return Survey(hashes, splits, index, clusters, templates.identities[places], places, *of_turns)


def assign(hashes: np.ndarray, split: Split) -> np.ndarray:
    """Return each hash's split, an index into SPLIT_NAMES.

    The lowest share `split.test` of all hashes is test, the next share `split.validation` is validation:

    >>> hashes = np.array([0.05, 0.15, 0.5]) * 2.0**64
    >>> [SPLIT_NAMES[number] for number in assign(hashes, Split(test=0.1, validation=0.1))]
    ['test', 'validation', 'train']
    """
    u = hashes / 2.0**64
    return np.where(u < split.test, TEST, np.where(u < split.test + split.validation, VALIDATION, TRAIN))


def _filled(values: list[str | None]) -> np.ndarray:
    """Return 1 for each value and 0 for a null or blank one, [values] uint64."""
    return np.array([bool(value and value.strip()) for value in values], np.uint64)
