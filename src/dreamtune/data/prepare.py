"""From parquet rows to tokens: three splits of Arrow shards, and an audit of what was cut, repeated or leaked.

Usage: `prepare_shards(data, model, out, benchmarks)` fills the empty folder `out`:

    out/train/train-00000.arrow …    likewise validation/, test/; columns in `dreamtune.formats.shards`
    out/shards.json                  template, tokenizer ids, rows and tokens per split, dropped rows by reason
    out/lengths.parquet              one row per source row: split, reason, tokens and characters by segment, flags
    out/questions.parquet            one row per held-out row: what the training rows say of its question
    out/audit.json                   what each truncation policy would lose; repeats; contamination; templates;
                                     questions that give their answer away; flags; warnings; the canvases that training
                                     and generation will show

Several jobs can share the work. Each then tokenises one part, a stretch of the rows, and writes only OUT/part.arrow. A
last job takes these tokens and does the rest, which needs all rows: split, duplicates, contamination, shards, audit.

The rows are read twice, a batch at a time: first the questions (split, duplicates, templates, held-out n-grams), then
all columns. In between, the held-out questions that a training row may be a copy of are looked up with their answers,
and at the end the questions of the overlapping pairs that audit.json quotes.
Held-out rows go through the same truncation policy as training rows; see `dreamtune.data.truncation.fit`.
"""

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.canvas import Canvas, compare_canvases
from dreamtune.contamination.benchmark import BenchmarkOverlap
from dreamtune.contamination.copies import Copies
from dreamtune.contamination.giveaway import gives_away
from dreamtune.contamination.rows import RowOverlap
from dreamtune.contamination.templates import Templates
from dreamtune.data.audit import audit_lengths
from dreamtune.data.clusters import ClusterKeys
from dreamtune.data.encode import EncodedRows, check_template, columns_of, encode_rows
from dreamtune.data.giveaways import Giveaways
from dreamtune.data.heldout import Findings, heldout_contamination
from dreamtune.data.parts import read_parts, write_part
from dreamtune.data.shard_writer import LengthsWriter, ShardWriter
from dreamtune.data.survey import NO_SPLIT, SPLIT_NAMES, TEST, TRAIN, Survey, survey_questions
from dreamtune.data.tables import LENGTHS, lengths_table, shard_table
from dreamtune.data.tokenizer import Tokenizer, load_tokenizer
from dreamtune.data.truncation import fit
from dreamtune.errors import UserError
from dreamtune.files import write_json
from dreamtune.formats.shards import AUDIT_FILE, LENGTHS_FILE, SHARDS_FILE
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.rows import Rows, open_rows
from dreamtune.part import Part
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig

AHEAD = 2  # number of batches that are tokenised while another is written


def prepare_shards(
    data: DataConfig,
    model: ModelConfig,
    out: Path,
    benchmarks: Sequence[Benchmark] = (),
    part: Part | None = None,
    parts: Sequence[Path] = (),
    canvases: Mapping[str, Canvas] | None = None,
) -> dict[str, Any]:
    """Fill the empty folder `out` and return counts: source_rows, rows by split, dropped rows by reason, warnings.

    The warnings are printed too, so that they are read before anything trains.

    Args:
        data: settings of the stage.
        model: settings of the base model, whose tokenizer is used.
        out: as the module's docstring describes it.
        benchmarks: training rows that overlap one of these are dropped.
        part: set for a job that only tokenises the batches that begin in this part's stretch of the rows.
        parts: output folders of such jobs, all of them, whose tokens are used; empty to tokenise here.
        canvases: by a name for the user, what training and generation will show; compared with the responses.

    Raises:
        UserError: unreadable or missing data or benchmark, no usable tokenizer, or no training row left.
    """
    tokenizer = load_tokenizer(model.path, model.revision, model.mask_token)
    check_template(data, tokenizer)
    checked = list(dict.fromkeys([*columns_of(data), data.columns.cluster or data.columns.question]))
    rows = open_rows(resolve_files(data.files), checked, data.batch_rows)
    if part:
        return {"rows": write_part(_tokenised(rows, data, tokenizer, part.stretch(rows.rows)), out)}
    templates = Templates()
    against = [BenchmarkOverlap(benchmark, data.ngram, templates) for benchmark in benchmarks]
    survey = survey_questions(rows, data, templates)
    for each in against:
        each.expect(templates, survey.places.start + np.flatnonzero(survey.splits == TRAIN))
    run = _SecondPass(data, tokenizer, survey, survey.copies(rows, data), against, out)
    for encoded in read_parts(parts) if parts else _tokenised(rows, data, tokenizer, range(rows.rows)):
        run.write(encoded)
    meta = run.finish(rows.rows)
    questions_of = partial(rows.texts_at, data.columns.question)
    found = heldout_contamination(out, meta["splits"], run.findings(), survey.straddling(), questions_of)
    found["benchmarks"] = {each.name: {"train_rows": each.rows} | each.counts() | each.pairs() for each in against}
    leaks = {"contamination": found, "templates": run.templates(), "gives_away": run.giveaways.counts()}
    audit = audit_lengths(out / LENGTHS_FILE, data, survey.duplicates(), leaks, run.unknown)
    audit["canvases"] = compare_canvases(canvases or {}, audit["response_tokens"]["train"])
    unshown = [f"{name}: {text}" for name, found in audit["canvases"].items() for text in found["warnings"]]
    for text in [*audit["warnings"], *unshown]:
        print(f"warning: {text}", file=sys.stderr)
    write_json(out / AUDIT_FILE, audit)
    write_json(out / SHARDS_FILE, meta)
    counts = {split: content["rows"] for split, content in meta["splits"].items()}
    return {"source_rows": rows.rows, "rows": counts, "dropped": meta["dropped"], "warnings": audit["warnings"]}


class _SecondPass:
    """The second reading of the rows, in source order: keep or drop each, and write the kept ones to the shards.

    Args:
        survey: results of the first reading.
        copies: finds training rows that nearly repeat a held-out question.
        against: benchmarks that training rows must not overlap.
        out: folder of the shards.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: Tokenizer,
        survey: Survey,
        copies: Copies,
        against: list[BenchmarkOverlap],
        out: Path,
    ) -> None:
        self.data, self.tokenizer, self.survey, self.against = data, tokenizer, survey, against
        self.writers = {name: ShardWriter(out, name, data.rows_per_shard) for name in SPLIT_NAMES if name}
        self.lengths = LengthsWriter(out / LENGTHS_FILE, LENGTHS)
        self.overlap, self.copies, self.giveaways = RowOverlap(survey.heldout), copies, Giveaways()
        self.clusters = ClusterKeys(survey.clusters, len(self.writers))
        self.dropped: Counter[str] = Counter()
        self.row, self.unknown = 0, 0
        self.groups = survey.groups()  # [rows], each row's question as a number
        self.taken = np.zeros(int(self.groups.max()) + 1, bool)  # [questions], whether an earlier usable row asked it

    def write(self, rows: EncodedRows) -> None:
        """Truncate, drop and write the rows of one batch; a row counts under the first reason to drop it."""
        ids = np.arange(self.row, self.row + len(rows.questions))
        splits = self.survey.splits[ids]
        outcome = fit(self.data.too_long, *rows.lengths(), self.data.max_tokens)
        dropped = np.where(rows.dropped == "", outcome.dropped, rows.dropped)
        self._drop_giveaways(rows, ids, splits, dropped)
        self._drop_contaminated(rows, np.flatnonzero((splits == TRAIN) & (dropped == "")), ids, dropped)
        repeats = self._repeats(dropped, self.groups[ids])
        if self.data.duplicates == "drop":
            dropped[repeats] = "duplicate"
        # A test question that is asked twice would count twice, where the statistics assume independent questions.
        dropped[repeats & (splits == TEST) & (dropped == "")] = "repeated_test_question"
        kept = dropped == ""
        from_start = self.data.too_long == "shorten_reasoning" and self.data.shorten_from == "start"
        assert (splits[kept] != NO_SPLIT).all(), "a row without a question was kept"
        for number, name in enumerate(SPLIT_NAMES):
            if name is not None:
                chosen = np.flatnonzero(kept & (splits == number))
                keys = self.clusters.of(number, ids[chosen])
                table = shard_table(rows, outcome, chosen, ids, keys, self.tokenizer.end_id, from_start)
                self.writers[name].write(table)
        self.lengths.write(lengths_table(rows, outcome, ids, splits, dropped))
        self.dropped.update(dropped[~kept].tolist())
        self.row += len(ids)
        self.unknown += rows.unknown

    def finish(self, source_rows: int) -> dict[str, Any]:
        """Close the files and return the content of shards.json.

        Raises:
            UserError: no row is left for training.
        """
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

    def findings(self) -> Findings:
        """Return what is known about the held-out questions when all rows are written."""
        known = self.clusters.known(TRAIN)
        return Findings(self.overlap, self.copies, known, self.giveaways.heldout, self.data.contaminated == "drop")

    def templates(self) -> dict[str, Any]:
        """Return the number of clusters of all rows with a question, rows of the largest, and clusters by split."""
        by_split = dict(zip(self.writers, self.clusters.counts(), strict=True))
        return {"column": self.data.columns.cluster, **self.survey.clusters_found(), **by_split}

    def _drop_giveaways(self, rows: EncodedRows, ids: np.ndarray, splits: np.ndarray, dropped: np.ndarray) -> None:
        """Note the usable rows of a batch whose question gives its answer away; drop those meant for training.

        Test questions stay, because the report leaves them out of a second reading beside the first.
        """
        ways = gives_away(rows.questions, rows.reasonings, rows.answers)
        for number, name in enumerate(SPLIT_NAMES):
            found = np.flatnonzero((ways != "") & (dropped == "") & (splits == number))
            if name is not None:
                self.giveaways.note(name, ids[found], ways[found])
            if number == TRAIN and self.data.gives_away == "drop":
                dropped[found] = "gives_answer_away"

    def _drop_contaminated(self, rows: EncodedRows, train: np.ndarray, ids: np.ndarray, dropped: np.ndarray) -> None:
        """Compare training rows with the held-out questions and the benchmarks, and count the overlaps.

        Args:
            rows: a batch.
            train: [training rows], their places in the batch.
            ids: [rows] example ids.
            dropped: [rows] reasons, changed in place for rows that overlap and have to go.
        """
        columns = (rows.questions, rows.answers, rows.reasonings)
        questions, answers, reasonings = ([column[i] for i in train] for column in columns)
        identities = self.survey.identities[ids[train]]
        shares = self.overlap.look_up(questions, answers, reasonings, ids[train])
        shares |= self.copies.look_up(identities, questions, answers, ids[train])
        for benchmark in self.against:
            overlaps = benchmark.look_up(identities, questions, answers, reasonings, ids[train])
            dropped[train[overlaps]] = "contaminated_by_benchmark"
        if self.data.contaminated == "drop":
            dropped[train[shares]] = "contaminated"

    def _repeats(self, dropped: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return which usable rows of a batch repeat the question of an earlier usable row, here or in a batch before.

        Args:
            dropped: [rows] object; reasons, "" for a usable row.
            groups: [rows], each row's question as a number.

        Returns:
            [rows] bool.

        Rows that ask questions 0, 1, 0, 2, 0, where question 1 was asked in a batch before, and the first row is
        dropped already, so that it is the third that asks question 0 first:

        >>> from types import SimpleNamespace
        >>> second_pass = SimpleNamespace(taken=np.array([False, True, False]))
        >>> dropped = np.array(["too_long", "", "", "", ""], object)
        >>> _SecondPass._repeats(second_pass, dropped, groups=np.array([0, 1, 0, 2, 0])).tolist()
        [False, True, False, False, True]
        """
        repeats, usable = np.zeros(len(groups), bool), np.flatnonzero(dropped == "")
        first = usable[np.unique(groups[usable], return_index=True)[1]]  # of each question asked in this batch
        repeats[np.setdiff1d(usable, first[~self.taken[groups[first]]])] = True
        self.taken[groups[usable]] = True
        return repeats


def _tokenised(rows: Rows, data: DataConfig, tokenizer: Tokenizer, among: range) -> Iterator[EncodedRows]:
    """Yield the tokenised batches that begin in the range of rows `among`, with a progress bar."""
    with Progress("tokenising", len(among)) as progress:
        for encoded in _prefetched(rows, data, tokenizer, among):
            yield encoded
            # The last batch may reach beyond the range.
            progress.advance(min(len(encoded.questions), len(among) - progress.done))


def _prefetched(rows: Rows, data: DataConfig, tokenizer: Tokenizer, among: range) -> Iterator[EncodedRows]:
    """Yield tokenised batches, of which AHEAD more are worked on by threads while the caller writes one.

    The tokenizer uses all cores and releases Python's lock; making the lists of a batch holds it. With two batches
    under way, one is tokenised while the lists of the other are made.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque[Future[EncodedRows]]()
        for batch in rows.batches(columns_of(data), among):
            waiting.append(pool.submit(encode_rows, batch, data, tokenizer))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
