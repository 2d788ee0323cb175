"""The first reading of the rows: each question's hash, its split, and the n-grams of the held-out questions.

A row costs 9 bytes of memory; nothing else here grows with the file. A held-out question counts for contamination even
if its row is dropped later: this errs on the strict side, and does not need the other columns.
"""

from dataclasses import dataclass

import numpy as np

from dreamtune.contamination.ngrams import NgramIndex
from dreamtune.contamination.questions import question_hash
from dreamtune.inputs.parquet_rows import ParquetRows
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
    """

    hashes: np.ndarray
    splits: np.ndarray
    heldout: NgramIndex

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
        heldout = self.hashes[(self.splits == VALIDATION) | (self.splits == TEST)]
        return len(np.intersect1d(train, heldout))


def survey_questions(rows: ParquetRows, data: DataConfig) -> Survey:
    """Read the question column once, and return each row's hash and split and the held-out n-grams."""
    hashes, splits = np.zeros(rows.rows, np.uint64), np.full(rows.rows, NO_SPLIT, np.uint8)
    index, start = NgramIndex(data.ngram), 0
    with Progress("reading questions", rows.rows) as progress:
        for batch in rows.batches([data.columns.question]):
            questions = batch[data.columns.question]
            there = np.array([bool(q and q.strip()) for q in questions])
            batch_hashes = [question_hash(q, data.split.seed) if q else 0 for q in questions]
            span = slice(start, start + len(questions))
            hashes[span] = np.where(there, np.array(batch_hashes, np.uint64), 0)
            splits[span] = np.where(there, assign(hashes[span], data.split), NO_SPLIT)
            heldout = np.flatnonzero(there & (splits[span] != TRAIN))
            index.add([questions[i] or "" for i in heldout], heldout + start)
            start += len(questions)
            progress.advance(len(questions))
    index.merge()
    return Survey(hashes, splits, index)


def assign(hashes: np.ndarray, split: Split) -> np.ndarray:
    """Return each hash's split, an index into SPLIT_NAMES.

    The lowest share `split.test` of all hashes is test, the next share `split.validation` is validation:

    >>> hashes = np.array([0.05, 0.15, 0.5]) * 2.0**64
    >>> [SPLIT_NAMES[number] for number in assign(hashes, Split(test=0.1, validation=0.1))]
    ['test', 'validation', 'train']
    """
    u = hashes / 2.0**64
    return np.where(u < split.test, TEST, np.where(u < split.test + split.validation, VALIDATION, TRAIN))
