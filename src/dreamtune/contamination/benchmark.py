"""Find training rows that overlap a benchmark: they repeat a question of it, or share an n-gram with one.

A question is repeated if it is equal after normalisation; an n-gram is a run of n words. Per benchmark, memory is
bounded by the n-gram index (`dreamtune.contamination.ngrams.LIMIT` entries) and 16 bytes per benchmark row.
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
    """Counts the training rows that overlap a benchmark, and the benchmark's rows that are overlapped.

    Call `look_up` with all training rows, in batches, then `counts` and `pairs`.

    Attributes:
        rows: number of training rows found so far, by an exact match or by an n-gram.
    """

    def __init__(self, benchmark: Benchmark, ngram: int) -> None:
        """Read the benchmark's questions.

        Args:
            ngram: length of an n-gram in words.

        Raises:
            UserError: the benchmark's file or one of its columns is missing, or it holds no question.
        """
        self.name, self.column, self.rows = benchmark.name, benchmark.question, 0
        # The answers are not compared, but a missing column of answers should be reported now, not after training.
        columns = [self.column, benchmark.answer]
        self.source = open_rows(resolve_files(benchmark.files), columns, BATCH_ROWS)
        index, hashes, rows = _read(self.source, self.column, ngram)
        if not len(hashes):
            raise UserError(
                f"benchmark {self.name}: column {self.column!r} holds no question in any of its {self.source.rows} rows"
            )
        self.exact, self.in_questions, self.in_answers = _Exact(hashes, rows), Overlap(index), Overlap(index)
        self.sharing = 0  # training rows that share an n-gram

    def look_up(self, questions: list[str], answers: list[str], ids: np.ndarray) -> np.ndarray:
        """Return which training rows overlap the benchmark, [rows] bool.

        Args:
            questions, answers: [rows] texts.
            ids: [rows] int64, the rows' example ids.
        """
        same = self.exact.look_up(questions, ids)
        shares = self.in_questions.look_up(questions, ids) | self.in_answers.look_up(answers, ids, questions)
        self.sharing += int(shares.sum())
        self.rows += int((same | shares).sum())
        return same | shares

    def counts(self) -> dict[str, Any]:
        """Return the numbers of training rows and benchmark rows that overlap; reads the benchmark a second time."""
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
        """Return the first overlapping pairs of rows, as `exact_pairs` and `overlap_pairs`, with excerpts.

        In a pair, `text` is the text that both rows share, and `part` says whether it stands in the training row's
        question or answer. The longest overlaps come first, because short ones are often a phrase that many questions
        of the kind end with.
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
    """Counts the training rows that repeat a benchmark's question, and the benchmark rows that are repeated."""

    def __init__(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Take the hashes of the benchmark's questions, [questions] uint64, and their row numbers, [questions]."""
        self.known, first, self.occurrences = np.unique(hashes, return_index=True, return_counts=True)
        self.first_rows = rows[first]  # [distinct questions]
        self.met = np.zeros(len(self.known), bool)
        self.count = 0
        self.pairs: list[Pair] = []

    def look_up(self, questions: list[str], ids: np.ndarray) -> np.ndarray:
        """Return which training rows repeat a question, [rows] bool; `questions` [rows] and `ids` [rows] are theirs."""
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
        """Return the number of benchmark rows whose question some training row repeats."""
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
    """Return the index of all n-grams of the benchmark's questions, their hashes and row numbers, [questions] each."""
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
