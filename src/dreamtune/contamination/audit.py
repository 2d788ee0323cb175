"""Compare all rows of the training split with a benchmark's questions, and write contamination.json.

Rows of both are read in bounded batches; `dreamtune.contamination.benchmark` does the comparison.
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
    """Compare the training split's questions and answers with the benchmark's questions; write OUT/contamination.json.

    The file holds, for `exact` (the same normalised question) and `overlap` (a shared n-gram, in question or answer),
    the number of training rows and of benchmark rows concerned, and the first pairs of them.

    Args:
        shards: output folder of prepare_shards.
        ngram: length of an n-gram in words.

    Returns:
        The file's content without the pairs.

    Raises:
        UserError: there are no training rows, or the benchmark's file or column is missing or holds no question.
    """
    overlap = BenchmarkOverlap(benchmark, ngram)
    train = read_split(shards, "train").table.select(["example_id", "question", "answer"])
    with Progress(f"comparing with {benchmark.name}", len(train)) as progress:
        for batch in train.to_batches(BATCH_ROWS):
            questions, answers = (batch[name].to_pylist() for name in ("question", "answer"))
            overlap.look_up(questions, answers, batch["example_id"].to_numpy())
            progress.advance(len(questions))
    counts = {"benchmark": benchmark.name, "ngram": ngram, "train_rows": len(train), **overlap.counts()}
    write_json(out / CONTAMINATION_FILE, counts | overlap.pairs())
    return counts
