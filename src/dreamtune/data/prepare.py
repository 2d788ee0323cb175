"""From parquet rows to tokens: three splits of Arrow shards, and an audit of what was cut, repeated or leaked.

Usage: `prepare_shards(data, model, out, benchmarks)` fills the empty folder `out`:

    out/train/train-00000.arrow …    likewise validation/, test/; columns in `dreamtune.data.shard_writer`
    out/shards.json                  template, tokenizer ids, rows and tokens per split, dropped rows by reason
    out/lengths.parquet              one row per source row: split, reason, tokens and characters of each part, flags
    out/audit.json                   what each truncation policy would lose; duplicates; contamination; flags; warnings

Of a part of a version OUT/part.arrow alone: its stretch of rows, tokenised. What needs all rows (split, duplicates,
contamination, the audit) and all writing is left to the job that gathers the parts.

The rows are read twice, a batch at a time: first the questions (split, duplicates, held-out n-grams), then everything;
and the questions once more, as far as the overlapping pairs that audit.json quotes.
Held-out rows go through the same truncation policy as training rows; see `dreamtune.data.truncation.fit`.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dreamtune.contamination.benchmark import BenchmarkOverlap
from dreamtune.contamination.ngrams import Overlap
from dreamtune.data.audit import audit_lengths, heldout_contamination
from dreamtune.data.encode import EncodedRows, check_template, columns_of, encode_rows
from dreamtune.data.parts import read_parts, write_part
from dreamtune.data.shard_writer import ShardWriter
from dreamtune.data.survey import NO_SPLIT, SPLIT_NAMES, TEST, TRAIN, Survey, survey_questions
from dreamtune.data.tables import LENGTHS, lengths_table, shard_table
from dreamtune.data.tokenizer import Tokenizer, load_tokenizer
from dreamtune.data.truncation import fit
from dreamtune.errors import UserError
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.parquet_rows import ParquetRows, open_rows
from dreamtune.part import Part
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig

AHEAD = 2  # batches that are tokenised while one is written


def prepare_shards(
    data: DataConfig,
    model: ModelConfig,
    out: Path,
    benchmarks: Sequence[Benchmark] = (),
    part: Part | None = None,
    parts: Sequence[Path] = (),
) -> dict[str, Any]:
    """Fill `out` and return the counts: source_rows, rows per split, dropped rows by reason.

    Args:
        benchmarks: training rows that overlap one of these are dropped.
        part: only tokenise the batches that begin in this part's stretch of the rows.
        parts: folders of all parts, whose tokens are taken instead.

    Raises:
        UserError: unreadable or missing data or benchmark, no usable tokenizer, or no training row left.
    """
    tokenizer = load_tokenizer(model.path, model.revision)
    check_template(data, tokenizer)
    rows = open_rows(resolve_files(data.files), columns_of(data), data.batch_rows)
    if part:
        return {"rows": write_part(_tokenised(rows, data, tokenizer, part.stretch(rows.rows)), out)}
    against = [BenchmarkOverlap(benchmark, data.ngram) for benchmark in benchmarks]
    survey = survey_questions(rows, data)
    run = _Run(data, tokenizer, survey, against, out)
    for encoded in read_parts(parts) if parts else _tokenised(rows, data, tokenizer, range(rows.rows)):
        run.write(encoded)
    meta = run.finish(rows.rows)
    questions_of = partial(rows.texts_at, data.columns.question)
    contamination = heldout_contamination(out, meta["splits"], run.overlap, survey.straddling(), questions_of)
    contamination["benchmarks"] = {
        each.name: {"train_rows": each.rows} | each.counts() | each.pairs() for each in against
    }
    audit = audit_lengths(out / "lengths.parquet", data, survey.duplicates(), contamination, run.unknown)
    _write_json(out / "audit.json", audit)
    _write_json(out / "shards.json", meta)
    counts = {split: content["rows"] for split, content in meta["splits"].items()}
    return {"source_rows": rows.rows, "rows": counts, "dropped": meta["dropped"], "warnings": audit["warnings"]}


class _Run:
    """The second pass: decides about each row, in source order, and writes it."""

    def __init__(
        self, data: DataConfig, tokenizer: Tokenizer, survey: Survey, against: list[BenchmarkOverlap], out: Path
    ) -> None:
        self.data, self.tokenizer, self.survey, self.against, self.out = data, tokenizer, survey, against, out
        self.writers = {name: ShardWriter(out, name, data.rows_per_shard) for name in SPLIT_NAMES if name}
        self.lengths = pq.ParquetWriter(out / "lengths.parquet", LENGTHS)
        self.overlap = Overlap(survey.heldout)
        self.dropped: Counter[str] = Counter()
        self.row, self.unknown = 0, 0
        self.groups = survey.groups()  # [rows], the number of each row's question
        self.taken = np.zeros(int(self.groups.max()) + 1, bool)  # [questions], whether a usable row had it already

    def write(self, rows: EncodedRows) -> None:
        """Fit, drop and write one batch; the first reason a row meets is the one it is counted under."""
        ids = np.arange(self.row, self.row + len(rows.questions))
        splits = self.survey.splits[ids]
        outcome = fit(self.data.too_long, *rows.lengths(), self.data.max_tokens)
        dropped = np.where(rows.dropped == "", outcome.dropped, rows.dropped)
        self._drop_contaminated(rows, np.flatnonzero((splits == TRAIN) & (dropped == "")), ids, dropped)
        repeats = self._repeats(dropped, self.groups[ids])
        if self.data.duplicates == "drop":
            dropped[repeats] = "duplicate"
        # Asked twice, a question would count twice, and the tests take questions for independent.
        dropped[repeats & (splits == TEST) & (dropped == "")] = "repeated_test_question"
        kept = dropped == ""
        from_start = self.data.too_long == "shorten_reasoning" and self.data.shorten_from == "start"
        assert (splits[kept] != NO_SPLIT).all(), "a row without a question was kept"
        for number, name in enumerate(SPLIT_NAMES):
            if name is not None:
                chosen = np.flatnonzero(kept & (splits == number))
                self.writers[name].write(shard_table(rows, outcome, chosen, ids, self.tokenizer.end_id, from_start))
        self.lengths.write_table(lengths_table(rows, outcome, ids, splits, dropped))
        self.dropped.update(dropped[~kept].tolist())
        self.row += len(ids)
        self.unknown += rows.unknown

    def finish(self, source_rows: int) -> dict[str, Any]:
        """Close the files and return the content of shards.json."""
        self.lengths.close()
        splits = {name: writer.close() for name, writer in self.writers.items()}
        kept = sum(writer.rows for writer in self.writers.values())
        assert kept + self.dropped.total() == self.row == source_rows, "every source row is kept or dropped, once"
        dropped = dict(sorted(self.dropped.items()))
        if not self.writers["train"].rows:
            what = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "none dropped"
            raise UserError(
                f"none of the {source_rows} rows is left for training (held out: {kept}; dropped: {what}); "
                "check data.columns, data.split and data.max_tokens"
            )
        return {
            "template": self.data.template,
            "beginning_token": self.data.beginning_token and self.tokenizer.beginning_id is not None,
            "max_tokens": self.data.max_tokens,
            "tokenizer": self.tokenizer.describe(),
            "splits": splits,
            "source_rows": source_rows,
            "dropped": dropped,
        }

    def _drop_contaminated(self, rows: EncodedRows, train: np.ndarray, ids: np.ndarray, dropped: np.ndarray) -> None:
        """Look for the batch's training rows `train` [training rows] among the held-out questions and the benchmarks.

        Those found get a reason in `dropped` [rows], if contaminated rows are dropped.
        """
        questions, answers = ([part[i] for i in train] for part in (rows.questions, rows.answers))
        shares = self.overlap.look_up(questions, ids[train])
        for benchmark in self.against:
            dropped[train[benchmark.look_up(questions, answers, ids[train])]] = "contaminated_by_benchmark"
        if self.data.contaminated == "drop":
            dropped[train[shares]] = "contaminated"

    def _repeats(self, dropped: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return [rows] bool: all usable rows but the first of each question, in this batch and before it."""
        repeats, usable = np.zeros(len(groups), bool), np.flatnonzero(dropped == "")
        first = usable[np.unique(groups[usable], return_index=True)[1]]
        repeats[np.setdiff1d(usable, first[~self.taken[groups[first]]])] = True
        self.taken[groups[usable]] = True
        return repeats


def _tokenised(rows: ParquetRows, data: DataConfig, tokenizer: Tokenizer, among: range) -> Iterator[EncodedRows]:
    """Yield the batches that begin among these rows."""
    with Progress("tokenising", len(among)) as progress:
        for encoded in _ahead(rows, data, tokenizer, among):
            yield encoded
            progress.advance(min(len(encoded.questions), len(among) - progress.done))  # the last may reach beyond


def _ahead(rows: ParquetRows, data: DataConfig, tokenizer: Tokenizer, among: range) -> Iterator[EncodedRows]:
    """Tokenise the next batches on all cores while the last one is written; the tokenizer releases Python's lock.

    Two are under way, so that the cores have work while the lists of the other batch are made under the lock.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque[Future[EncodedRows]]()
        for batch in rows.batches(columns_of(data), among):
            waiting.append(pool.submit(encode_rows, batch, data, tokenizer))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
