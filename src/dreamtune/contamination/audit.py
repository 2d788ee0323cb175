"""The training split against a benchmark, row by row.

`audit_contamination(shards, benchmark, ngram, out)` writes `out/contamination.json`. Both sides are streamed; what is
compared and what it costs stand in `dreamtune.contamination.benchmark`.
"""

from pathlib import Path
from typing import Any

from dreamtune.contamination.benchmark import BATCH_ROWS, BenchmarkOverlap
from dreamtune.files import write_json
from dreamtune.formats.shards import CONTAMINATION_FILE
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.shards import read_split


def audit_contamination(shards: Path, benchmark: Benchmark, ngram: int, out: Path) -> dict[str, Any]:
    """Compare the training split's questions and answers with the benchmark's questions.

    Writes contamination.json: `exact` (same normalised question) and `overlap` (shared n-gram, in the question or in
    the answer), each with the training rows and the benchmark rows concerned, and the first pairs. Returns its counts.

    Raises:
        UserError: no training rows, or the benchmark's file or column is missing or holds no question.
    """
    overlap = BenchmarkOverlap(benchmark, ngram)
    train = read_split(shards, "train").table.select(["example_id", "question", "answer"])
    with Progress(f"comparing with {benchmark.name}", len(train)) as progress:
        for batch in train.to_batches(BATCH_ROWS):
            questions, answers = (batch[name].to_pylist() for name in ("question", "answer"))
            overlap.check(questions, answers, batch["example_id"].to_numpy())
            progress.advance(len(questions))
    counts = {"benchmark": benchmark.name, "ngram": ngram, "train_rows": len(train), **overlap.counts()}
    write_json(out / CONTAMINATION_FILE, counts | overlap.pairs())
    return counts
