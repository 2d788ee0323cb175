"""Find training rows that overlap a benchmark: they repeat a question of it, nearly repeat one, or share an n-gram.

A question is repeated if it is equal after normalisation, nearly repeated as `dreamtune.contamination.copies` says; an
n-gram is a run of n words. Per benchmark, memory is bounded by the n-gram index (`dreamtune.contamination.ngrams.LIMIT`
entries), 32 bytes per benchmark row, and the rows that may be copies.
"""

from functools import partial
from typing import Any

import numpy as np
import polars as pl

from dreamtune.contamination.copies import Copies
from dreamtune.contamination.giveaway import gives_away
from dreamtune.contamination.ngrams import MAX_PAIRS, NgramIndex, Pair, excerpt
from dreamtune.contamination.questions import question_hash
from dreamtune.contamination.rows import RowOverlap
from dreamtune.contamination.templates import Templates
from dreamtune.contamination.words import read_words
from dreamtune.errors import UserError
from dreamtune.formats.questions import QUESTIONS
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.rows import Rows, open_rows
from dreamtune.settings.benchmark import Benchmark

BATCH_ROWS = 2_000


class BenchmarkOverlap:
    """Counts the training rows that overlap a benchmark, and the benchmark's rows that are overlapped.

    Add the training rows to the templates, finish these and call `expect`. Then call `look_up` with all training rows,
    in batches, and last `counts`, `pairs` and `questions`.

    Attributes:
        rows: number of training rows found so far, by any of the ways.
    """

    def __init__(self, benchmark: Benchmark, ngram: int, templates: Templates) -> None:
        """Read the benchmark's questions.

        Args:
            ngram: length of an n-gram in words.
            templates: the questions are added to it.

        Raises:
            UserError: the benchmark's file or one of its columns is missing, or it holds no question.
        """
        self.name, self.column, self.answer, self.rows = benchmark.name, benchmark.question, benchmark.answer, 0
        self.source = open_rows(resolve_files(benchmark.files), [self.column, self.answer], BATCH_ROWS)
        first = templates.rows
        index, hashes, rows = _read(self.source, self.column, ngram, templates)
        if not len(hashes):
            raise UserError(
                f"benchmark {self.name}: column {self.column!r} holds no question in any of its {self.source.rows} rows"
            )
        self.own = slice(first, templates.rows)
        self.exact, self.overlap = _Exact(hashes, rows), RowOverlap(index)

    def expect(self, templates: Templates, train: slice | np.ndarray) -> None:
        """Take the finished templates, and the training rows' places in them."""
        numbers, identities = templates.numbers, templates.identities
        self.known = np.isin(numbers[self.own], numbers[train])
        question, answer = (partial(self.source.texts_at, column) for column in (self.column, self.answer))
        self.copies = Copies(np.arange(self.source.rows), identities[self.own], identities[train], question, answer)

    def look_up(
        self, identities: np.ndarray, questions: list[str], answers: list[str], reasonings: list[str], ids: np.ndarray
    ) -> np.ndarray:
        """Return which training rows overlap the benchmark, [rows] bool.

        Args:
            identities: [rows] uint64, from `Templates`.
            questions, answers, reasonings: [rows] texts.
            ids: [rows] int64, the rows' example ids.
        """
        found = self.exact.look_up(questions, ids)
        found |= self.copies.look_up(identities, questions, answers, ids)
        found |= self.overlap.look_up(questions, answers, reasonings, ids)
        self.rows += int(found.sum())
        return found

    def counts(self) -> dict[str, Any]:
        """Return the numbers of training rows and benchmark rows that overlap; reads the benchmark a second time."""
        batches = self.source.batches([self.column])
        touched = (self.overlap.touched([text or "" for text in batch[self.column]]).sum() for batch in batches)
        return {
            "benchmark_rows": self.source.rows,
            "exact": {"train_rows": self.exact.count, "benchmark_rows": self.exact.benchmark_rows()},
            "copies": self.copies.counts("benchmark_rows"),
            "overlap": {"train_rows": self.overlap.rows, "benchmark_rows": int(sum(touched))},
            "known_templates": int(self.known.sum()),
            "kept_share": self.overlap.index.kept_share,
        }

    def pairs(self) -> dict[str, list[dict[str, Any]]]:
        """Return the first overlapping pairs of rows with excerpts: `exact_pairs`, `copy_pairs` and `overlap_pairs`.

        In a pair, `text` is the text that both rows share, and `part` says whether it stands in the training row's
        question, answer or reasoning.
        """
        overlaps = self.overlap.pairs()
        of_benchmark = [pair.other for _, pair in overlaps] + [pair.other for pair in self.exact.pairs]
        texts = self.source.texts_at(self.column, of_benchmark)
        return {
            "exact_pairs": [_shown(pair, texts) for pair in self.exact.pairs],
            "copy_pairs": self.copies.shown("benchmark"),
            "overlap_pairs": [_shown(pair, texts) | {"part": part} for part, pair in overlaps],
        }

    def questions(self) -> pl.DataFrame:
        """Return what the training rows say of each of the benchmark's questions; reads the benchmark once more."""
        tables, start = [], 0
        for batch in self.source.batches([self.column, self.answer]):
            texts, answers = ([text or "" for text in batch[name]] for name in (self.column, self.answer))
            ids = np.arange(start, start + len(texts))
            start += len(texts)
            columns = {
                "example_id": ids,
                "split": [None] * len(ids),
                "known_template": self.known[ids],
                "copy_of": self.copies.of(ids),
                "restated": self.overlap.restated(texts),
                "gives_away": [how or None for how in gives_away(texts, [""] * len(texts), answers)],
            }
            tables.append(pl.DataFrame(columns, schema=QUESTIONS))
        return pl.concat(tables)


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


def _read(source: Rows, column: str, ngram: int, templates: Templates) -> tuple[NgramIndex, np.ndarray, np.ndarray]:
    """Return the index of all n-grams of the benchmark's questions, their hashes and row numbers, [questions] each.

    All rows are added to the templates, also those without a question.
    """
    index, start = NgramIndex(ngram), 0
    hashes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for batch in source.batches([column]):
        texts = batch[column]
        templates.add(read_words([text or "" for text in texts]))
        there = np.array([i for i, text in enumerate(texts) if text and text.strip()], np.int64)
        questions = [texts[i] or "" for i in there]
        index.add(questions, there + start)
        hashes.append(np.array([question_hash(text) for text in questions], np.uint64))
        rows.append(there + start)
        start += len(texts)
    index.merge()
    return index, np.concatenate(hashes), np.concatenate(rows)
