"""Compare all rows of the training split with a benchmark's questions: contamination.json and questions.parquet.

Rows of both are read in bounded batches; `dreamtune.contamination.benchmark` does the comparison.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dreamtune.contamination.benchmark import BATCH_ROWS, BenchmarkOverlap
from dreamtune.contamination.templates import Templates
from dreamtune.contamination.words import read_words
from dreamtune.files import write_json
from dreamtune.formats.questions import QUESTIONS_FILE
from dreamtune.formats.shards import CONTAMINATION_FILE, COPY
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.shards import read_meta, read_split

COLUMNS = ["example_id", "question", "answer", "input_ids", "prompt_tokens"]


def audit_contamination(
    shards: Path, benchmark: Benchmark, ngram: int, decode: Callable[[list[int]], str], out: Path
) -> dict[str, Any]:
    """Compare the training split with the benchmark's questions; write contamination.json and questions.parquet.

    contamination.json holds, for `exact` (the same normalised question), `copies` (nearly the same question with the
    same answer) and `overlap` (a shared n-gram, in question, answer or reasoning), the number of training rows and of
    benchmark rows concerned, and the first pairs of them.

    Args:
        shards: output folder of prepare_shards.
        ngram: length of an n-gram in words.
        decode: returns the text of tokens; a row's response, as training sees it, holds its reasoning.
        out: folder of the two files.

    Returns:
        The content of contamination.json without the pairs.

    Raises:
        UserError: there are no training rows, or the benchmark's file or column is missing or holds no question.
    """
    templates = Templates()
    overlap = BenchmarkOverlap(benchmark, ngram, templates)
    every = read_split(shards, "train").table.select(COLUMNS)
    train = every.filter(pc.less(every["example_id"], COPY)) if "sources" in read_meta(shards) else every
    first = templates.rows
    for batch in train.select(["question"]).to_batches(BATCH_ROWS):
        templates.add(read_words(batch["question"].to_pylist()))
    templates.finish()
    overlap.expect(templates, slice(first, templates.rows))
    with Progress(f"comparing with {benchmark.name}", len(train)) as progress:
        for batch in train.to_batches(BATCH_ROWS):
            identities = templates.identities[first + progress.done :][: batch.num_rows]
            texts = (batch["question"].to_pylist(), batch["answer"].to_pylist(), _responses(batch, decode))
            overlap.look_up(identities, *texts, batch["example_id"].to_numpy())
            progress.advance(batch.num_rows)
    counts = {"benchmark": benchmark.name, "ngram": ngram, "train_rows": len(train), **overlap.counts()}
    overlap.questions().write_parquet(out / QUESTIONS_FILE)
    write_json(out / CONTAMINATION_FILE, counts | overlap.pairs())
    return counts


def _responses(batch: pa.RecordBatch, decode: Callable[[list[int]], str]) -> list[str]:
    """Return the text of each row's response, without its prompt."""
    rows = zip(batch["input_ids"].to_pylist(), batch["prompt_tokens"].to_pylist(), strict=True)
    return [decode(tokens[prompt:]) for tokens, prompt in rows]
