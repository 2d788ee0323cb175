"""Training rows against a benchmark's questions: the same question after normalisation, or so many words in a row.

For each benchmark, memory is bounded by the n-gram index (`dreamtune.contamination.ngrams.LIMIT`) and 16 bytes a row.
"""

from typing import Any

import numpy as np

from dreamtune.contamination.ngrams import MAX_PAIRS, NgramIndex, Overlap, Pair, excerpt
from dreamtune.contamination.questions import question_hash
from dreamtune.errors import UserError
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.parquet_rows import ParquetRows, open_rows
from dreamtune.settings.benchmark import Benchmark

BATCH_ROWS = 2_000


class BenchmarkOverlap:
    """Counts the training rows that overlap a benchmark, and its rows that they overlap.

    Attributes:
        rows: training rows found so far, by an exact match or by an n-gram.
    """

    def __init__(self, benchmark: Benchmark, ngram: int) -> None:
        """Read the benchmark's questions.

        Raises:
            UserError: its file or one of its columns is missing, or it holds no question.
        """
        self.name, self.column, self.rows = benchmark.name, benchmark.question, 0
        # The answers are not compared; that their column is missing is better said here than after a training.
        columns = [self.column, benchmark.answer]
        self.source = open_rows(resolve_files(benchmark.files), columns, BATCH_ROWS)
        index, hashes, rows = _read(self.source, self.column, ngram)
        if not len(hashes):
            raise UserError(
                f"benchmark {self.name}: column {self.column!r} holds no question in any of its {self.source.rows} rows"
            )
        self.exact, self.in_questions, self.in_answers = _Exact(hashes, rows), Overlap(index), Overlap(index)
        self.sharing = 0  # training rows that share an n-gram

    def check(self, questions: list[str], answers: list[str], ids: np.ndarray) -> np.ndarray:
        """Return [rows] bool: which of the training rows `ids` [rows] overlap the benchmark."""
        same = self.exact.check(questions, ids)
        shares = self.in_questions.check(questions, ids) | self.in_answers.check(answers, ids, questions)
        self.sharing += int(shares.sum())
        self.rows += int((same | shares).sum())
        return same | shares

    def counts(self) -> dict[str, Any]:
        """Return the training rows and benchmark rows concerned; reads the benchmark once more."""
        self.in_questions.met |= self.in_answers.met
        batches = self.source.batches([self.column])
        touched = (self.in_questions.touched([text or "" for text in batch[self.column]]).sum() for batch in batches)
        return {
            "benchmark_rows": self.source.rows,
            "exact": {"train_rows": self.exact.count, "benchmark_rows": self.exact.benchmark_rows()},
            "overlap": {"train_rows": self.sharing, "benchmark_rows": int(sum(touched))},
            "kept_share": self.in_questions.index.kept_share,
        }

    def pairs(self) -> dict[str, list[dict[str, Any]]]:
        """Return the first pairs with excerpts of both questions: `exact_pairs` and `overlap_pairs`.

        `text` is what both sides share; `part` says whether it stands in the training row's question or answer. The
        longest overlaps come first: of the short ones many are a phrase that all such questions end with.
        """
        overlaps = [("question", pair) for pair in self.in_questions.pairs]
        overlaps += [("answer", pair) for pair in self.in_answers.pairs]
        of_benchmark = [pair.other for _, pair in overlaps] + [pair.other for pair in self.exact.pairs]
        texts = self.source.texts_at(self.column, of_benchmark)
        return {
            "exact_pairs": [_shown(pair, texts) for pair in self.exact.pairs],
            "overlap_pairs": [
                _shown(pair, texts) | {"part": part} for part, pair in sorted(overlaps, key=lambda o: -len(o[1].words))
            ],
        }


class _Exact:
    """Counts the training rows whose normalised question stands among `hashes`, and those it stands for."""

    def __init__(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Take the `hashes` [questions] of the benchmark's questions, which stand in its `rows` [questions]."""
        self.known, first, self.occurrences = np.unique(hashes, return_index=True, return_counts=True)
        self.first_rows = rows[first]  # [distinct questions]
        self.met = np.zeros(len(self.known), bool)
        self.count = 0
        self.pairs: list[Pair] = []

    def check(self, questions: list[str], ids: np.ndarray) -> np.ndarray:
        """Look up `questions` [rows] of the training rows `ids` [rows]; return [rows] bool."""
        hashes = np.array([question_hash(question) for question in questions], np.uint64)
        at = np.searchsorted(self.known, hashes).clip(max=len(self.known) - 1)
        same = self.known[at] == hashes
        self.met[at[same]] = True
        self.count += int(same.sum())
        for i in np.flatnonzero(same)[: MAX_PAIRS - len(self.pairs)]:
            shown = excerpt(questions[i])
            self.pairs.append(Pair(int(ids[i]), int(self.first_rows[at[i]]), shown, shown))
        return same

    def benchmark_rows(self) -> int:
        return int(self.occurrences[self.met].sum())


def _shown(pair: Pair, texts: dict[int, str]) -> dict[str, Any]:
    return {
        "train": pair.row,
        "benchmark": pair.other,
        "text": pair.words,
        "train_question": pair.question,
        "benchmark_question": excerpt(texts[pair.other]),
    }


def _read(source: ParquetRows, column: str, ngram: int) -> tuple[NgramIndex, np.ndarray, np.ndarray]:
    """Return the n-grams, and [questions] the hashes of the benchmark's questions and the rows they stand in."""
    index, start = NgramIndex(ngram), 0
    hashes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for batch in source.batches([column]):
        texts = batch[column]
        there = np.array([i for i, text in enumerate(texts) if text and text.strip()], np.int64)
        questions = [texts[i] or "" for i in there]
        index.add(questions, there + start)
        hashes.append(np.array([question_hash(text) for text in questions], np.uint64))
        rows.append(there + start)
        start += len(texts)
    index.merge()
    return index, np.concatenate(hashes), np.concatenate(rows)
