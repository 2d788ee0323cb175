"""The first pass over the rows: each question's hash, its split, and the n-grams of the held-out questions.

A row costs 9 bytes here; nothing else grows with the file. A held-out question counts for contamination even if its row
is dropped later: that errs on the strict side, and needs no second look at the other columns.
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
    """What the first pass learned.

    Attributes:
        hashes: [rows] uint64, of the normalised question; 0 where there is none.
        splits: [rows] uint8, index into SPLIT_NAMES; NO_SPLIT where there is no question.
        heldout: n-grams of the questions of validation and test.
    """

    hashes: np.ndarray
    splits: np.ndarray
    heldout: NgramIndex

    def groups(self) -> np.ndarray:
        """Return [rows] int32: rows with the same question have the same number."""
        return np.unique(self.hashes, return_inverse=True)[1].astype(np.int32)

    def duplicates(self) -> dict[str, int]:
        """Count rows that repeat an earlier row's question, and the questions that occur more than once."""
        counts = np.unique(self.hashes[self.splits != NO_SPLIT], return_counts=True)[1]
        return {"rows": int((counts - 1).sum()), "questions": int((counts > 1).sum())}

    def straddling(self) -> int:
        """Count the questions that stand both in train and in a held-out split; the split's rule makes it 0."""
        train = self.hashes[self.splits == TRAIN]
        heldout = self.hashes[(self.splits == VALIDATION) | (self.splits == TEST)]
        return len(np.intersect1d(train, heldout))


def survey_questions(rows: ParquetRows, data: DataConfig) -> Survey:
    """Read the question column once."""
    hashes, splits = np.zeros(rows.rows, np.uint64), np.full(rows.rows, NO_SPLIT, np.uint8)
    index, start = NgramIndex(data.ngram), 0
    with Progress("reading questions", rows.rows) as progress:
        for batch in rows.batches([data.columns.question]):
            questions = batch[data.columns.question]
            there = np.array([bool(q and q.strip()) for q in questions])
            batch_hashes = [question_hash(q, data.split.seed) if q else 0 for q in questions]
            part = slice(start, start + len(questions))
            hashes[part] = np.where(there, np.array(batch_hashes, np.uint64), 0)
            splits[part] = np.where(there, assign(hashes[part], data.split), NO_SPLIT)
            heldout = np.flatnonzero(there & (splits[part] != TRAIN))
            index.add([questions[i] or "" for i in heldout], heldout + start)
            start += len(questions)
            progress.advance(len(questions))
    index.merge()
    return Survey(hashes, splits, index)


def assign(hashes: np.ndarray, split: Split) -> np.ndarray:
    """Return each hash's split: the lowest `test` share of all hashes is test, the next `validation` share follows."""
    u = hashes / 2.0**64
    return np.where(u < split.test, TEST, np.where(u < split.test + split.validation, VALIDATION, TRAIN))
