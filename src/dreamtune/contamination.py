"""Training rows against a benchmark: the same question after normalisation, or so many words in a row.

`audit_contamination(shards, benchmark, ngram, out)` writes `out/contamination.json`. Both sides are streamed; memory is
bounded by the n-gram index (`dreamtune.ngrams.LIMIT`) and 8 bytes per benchmark row.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.errors import UserError
from dreamtune.ngrams import EXCERPT, MAX_PAIRS, NgramIndex, Overlap
from dreamtune.parquet_rows import ParquetRows, open_rows
from dreamtune.progress import Progress
from dreamtune.settings.evaluate import Benchmark
from dreamtune.shards import read_split
from dreamtune.sources import resolve_files
from dreamtune.text import question_hash

BATCH_ROWS = 2_000


def audit_contamination(shards: Path, benchmark: Benchmark, ngram: int, out: Path) -> dict[str, Any]:
    """Compare the training split's questions and answers with the benchmark's questions.

    Writes contamination.json: `exact` (same normalised question) and `overlap` (shared n-gram, in the question or in
    the answer), each with the training rows and the benchmark rows concerned, and the first pairs. Returns its counts.

    Raises:
        UserError: no training rows, or the benchmark's file or column is missing.
    """
    rows = open_rows(resolve_files(benchmark.files), [benchmark.question], BATCH_ROWS)
    index, hashes = _index(rows, benchmark.question, ngram)
    overlap, exact = Overlap(index), _Exact(hashes)
    train = read_split(shards, "train").select_columns(["example_id", "question", "answer"]).with_format("arrow")
    concerned = 0
    with Progress(f"comparing with {benchmark.name}", len(train)) as progress:
        for batch in train.iter(BATCH_ROWS):
            ids = batch["example_id"].to_numpy()
            questions, answers = (batch[name].to_pylist() for name in ("question", "answer"))
            exact.check(questions, ids)
            asked = overlap.check(questions, ids)
            concerned += int((asked | overlap.check(answers, ids)).sum())
            progress.advance(len(ids))
    counts = {
        "benchmark": benchmark.name,
        "ngram": ngram,
        "train_rows": len(train),
        "benchmark_rows": rows.rows,
        "exact": {"train_rows": exact.rows, "benchmark_rows": int(exact.counts[exact.met].sum())},
        "overlap": {"train_rows": concerned, "benchmark_rows": _touched(rows, benchmark.question, overlap)},
        "kept_share": index.kept_share,
    }
    pairs = {
        "exact_pairs": [{"train": a, "text": text} for a, text in exact.pairs],
        "overlap_pairs": [{"train": a, "benchmark": b, "text": text} for a, b, text in overlap.pairs],
    }
    (out / "contamination.json").write_text(json.dumps(counts | pairs, indent=2, ensure_ascii=False) + "\n")
    return counts


class _Exact:
    """Counts the rows whose normalised question stands among `hashes`, and those it stands for."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.known, self.counts = np.unique(hashes, return_counts=True)  # [questions]
        self.met = np.zeros(len(self.known), bool)
        self.rows = 0
        self.pairs: list[tuple[int, str]] = []

    def check(self, questions: list[str], ids: np.ndarray) -> None:
        """Look up `questions` [rows] of the training rows `ids` [rows]."""
        hashes = np.array([question_hash(question) for question in questions], np.uint64)
        at = np.searchsorted(self.known, hashes).clip(max=len(self.known) - 1)
        same = np.flatnonzero(self.known[at] == hashes)
        self.met[at[same]] = True
        self.rows += len(same)
        self.pairs += [(int(ids[i]), questions[i][:EXCERPT]) for i in same[: MAX_PAIRS - len(self.pairs)]]


def _index(rows: ParquetRows, column: str, ngram: int) -> tuple[NgramIndex, np.ndarray]:
    """Return the benchmark's n-grams and the hashes [questions] of its questions."""
    index, hashes, start = NgramIndex(ngram), [], 0
    for batch in rows.batches([column]):
        there = [i for i, text in enumerate(batch[column]) if text]
        questions = [batch[column][i] or "" for i in there]
        index.add(questions, np.array(there, np.int64) + start)
        hashes.append(np.array([question_hash(text) for text in questions], np.uint64))
        start += len(batch[column])
    index.merge()
    if not sum(map(len, hashes)):
        raise UserError(f"column {column!r} of the benchmark holds no question in any of its {rows.rows} rows")
    return index, np.concatenate(hashes)


def _touched(rows: ParquetRows, column: str, overlap: Overlap) -> int:
    """Count the benchmark's questions that hold an n-gram some training row shares."""
    batches = rows.batches([column])
    return sum(int(overlap.touched([text or "" for text in batch[column]]).sum()) for batch in batches)
