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
from dreamtune.contamination.ngrams import NgramIndex
from dreamtune.contamination.questions import question_hash
from dreamtune.contamination.templates import Templates, numbered
from dreamtune.contamination.words import read_words
from dreamtune.inputs.rows import Rows
from dreamtune.progress import Progress
from dreamtune.settings.data import DataConfig, Split

TRAIN, VALIDATION, TEST, NO_SPLIT = range(4)
SPLIT_NAMES = ("train", "validation", "test", None)


@dataclass(frozen=True)
class Survey:
    """Results of the first reading of the rows.

    Attributes:
        hashes: [rows] uint64, hash of the normalised question; 0 for a row without one.
        splits: [rows] uint8, index into SPLIT_NAMES; NO_SPLIT for a row without a question.
        heldout: n-grams of the questions of validation and test.
        clusters: [rows] int32, each row's cluster as a number: its template, or the value of `data.columns.cluster`.
        identities: [rows] uint64, see `Templates`.
        places: the rows' places among all questions of the templates.
    """

    hashes: np.ndarray
    splits: np.ndarray
    heldout: NgramIndex
    clusters: np.ndarray
    identities: np.ndarray
    places: slice

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

    def copies(self, rows: Rows, data: DataConfig) -> Copies:
        """Return what finds training rows that nearly repeat a held-out question; reads the questions at risk."""
        asked = np.flatnonzero(self.in_heldout())
        question, answer = (partial(rows.texts_at, name) for name in (data.columns.question, data.columns.answer))
        return Copies(asked, self.identities[asked], self.identities[self.splits == TRAIN], question, answer)

    def clusters_found(self) -> dict[str, int]:
        """Return the number of clusters of the rows with a question, and the rows of the largest."""
        counts = np.bincount(self.clusters[self.splits != NO_SPLIT])
        return {"found": int((counts > 0).sum()), "largest": int(counts.max(initial=0))}


def survey_questions(rows: Rows, data: DataConfig, templates: Templates) -> Survey:
    """Read the question column once, and return what `Survey` says of each row.

    The questions are added to the templates, which are finished here.
    """
    hashes, splits = np.zeros(rows.rows, np.uint64), np.full(rows.rows, NO_SPLIT, np.uint8)
    index, start, first = NgramIndex(data.ngram), 0, templates.rows
    column, named = data.columns.cluster, [np.empty(0, np.uint64)]
    with Progress("reading questions", rows.rows) as progress:
        for batch in rows.batches(list(dict.fromkeys([data.columns.question, column or data.columns.question]))):
            questions = batch[data.columns.question]
            there = np.array([bool(q and q.strip()) for q in questions])
            batch_hashes = [question_hash(q, data.split.seed) if q else 0 for q in questions]
            span = slice(start, start + len(questions))
            hashes[span] = np.where(there, np.array(batch_hashes, np.uint64), 0)
            splits[span] = np.where(there, assign(hashes[span], data.split), NO_SPLIT)
            heldout = np.flatnonzero(there & (splits[span] != TRAIN))
            index.add([questions[i] or "" for i in heldout], heldout + start)
            templates.add(read_words([question or "" for question in questions]))
            if column:
                named.append(pl.Series(batch[column], dtype=pl.String).hash(1).to_numpy() * _filled(batch[column]))
            start += len(questions)
            progress.advance(len(questions))
    index.merge()
    templates.finish()
    places = slice(first, templates.rows)
    clusters = numbered(np.concatenate(named) if column else templates.numbers[places].astype(np.uint64) + np.uint64(1))
    return Survey(hashes, splits, index, clusters, templates.identities[places], places)


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
