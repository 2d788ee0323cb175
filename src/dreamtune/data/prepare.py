"""From parquet rows to tokens: three splits of Arrow shards, and an audit of what was cut, repeated or leaked.

Usage: `prepare_shards(data, model, out, benchmarks)` fills the empty folder `out`:

    out/train/train-00000.arrow …    likewise validation/, test/; columns in `dreamtune.formats.shards`
    out/shards.json                  template, tokenizer ids, rows and tokens per split, dropped rows by reason; of
                                     several sources the counts of each
    out/lengths.parquet              one row per source row: split, reason, tokens and characters by segment, flags
    out/questions.parquet            one row per held-out row: what the training rows say of its question
    out/turns.parquet                of conversations only: which turn of which conversation each document is
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
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.canvas import Canvas, compare_canvases
from dreamtune.chat.template import load_chat_template
from dreamtune.contamination.benchmark import BenchmarkOverlap
from dreamtune.contamination.templates import Templates
from dreamtune.data.audit import audit_lengths
from dreamtune.data.encode import EncodedRows, check_template
from dreamtune.data.encode_turns import TurnEncoder, turn_encoder
from dreamtune.data.heldout import heldout_contamination
from dreamtune.data.parts import read_parts, write_part
from dreamtune.data.second_pass import SecondPass
from dreamtune.data.source import RowSource, SeveralSources, Source, TurnSource
from dreamtune.data.survey import TRAIN, survey_questions
from dreamtune.data.tokenizer import Tokenizer, load_tokenizer
from dreamtune.files import write_json
from dreamtune.formats.shards import AUDIT_FILE, LENGTHS_FILE, SHARDS_FILE
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.rows import check_total, open_rows
from dreamtune.inputs.special_tokens import read_json_object
from dreamtune.part import Part
from dreamtune.progress import Progress
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import DataConfig, columns_of
from dreamtune.settings.model import ModelConfig
from dreamtune.sources.choice import choose
from dreamtune.sources.origins import untrained

AHEAD = 2  # number of batches that are tokenised while another is written


def prepare_shards(
    data: DataConfig,
    model: ModelConfig,
    out: Path,
    benchmarks: Sequence[Benchmark] = (),
    part: Part | None = None,
    parts: Sequence[Path] = (),
    canvases: Mapping[str, Canvas] | None = None,
    graded: str | None = None,
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
        graded: of conversations, what answers to a last turn are graded against: a column, "" for the turn itself, or
            None for nothing.

    Raises:
        UserError: unreadable or missing data or benchmark, no usable tokenizer, or no training row left.
    """
    tokenizer = load_tokenizer(model.path, model.revision, model.mask_token, not model.causal)
    source = open_source(data, model, tokenizer, graded, choosing=part is None)
    if part:
        return {"rows": write_part(_tokenised(source, part.stretch(source.total)), out)}
    templates = Templates()
    against = [BenchmarkOverlap(benchmark, data.ngram, templates) for benchmark in benchmarks]
    survey = survey_questions(source, data, templates)
    for each in against:
        each.expect(templates, survey.places.start + np.flatnonzero(survey.splits == TRAIN))
    run = SecondPass(data, tokenizer, survey, survey.copies(source), against, out, source.turns)
    run.origins = source.origins() if isinstance(source, SeveralSources) else None
    for encoded in read_parts(parts) if parts else _tokenised(source, range(source.total)):
        run.write(encoded)
    meta = run.finish(source.total)
    questions_of = partial(source.texts_at, "question")
    found = heldout_contamination(out, meta["splits"], run.findings(), survey.straddling(), questions_of)
    found["benchmarks"] = {each.name: {"train_rows": each.rows} | each.counts() | each.pairs() for each in against}
    leaks = {"contamination": found, "templates": run.templates(), "gives_away": run.giveaways.counts()}
    audit = audit_lengths(out / LENGTHS_FILE, data, survey.duplicates(), leaks, run.unknown)
    if data.conversations:
        assert source.turns is not None, "conversations have a chat template"
        audit["conversations"] = source.turns.describe() | survey.conversations()
    audit["canvases"] = compare_canvases(canvases or {}, audit["response_tokens"]["train"])
    audit["warnings"] += untrained(meta.get("sources", []))
    unshown = [f"{name}: {text}" for name, found in audit["canvases"].items() for text in found["warnings"]]
    for text in [*audit["warnings"], *unshown]:
        print(f"warning: {text}", file=sys.stderr)
    write_json(out / AUDIT_FILE, audit)
    write_json(out / SHARDS_FILE, meta)
    counts = {split: content["rows"] for split, content in meta["splits"].items()}
    found = {"source_rows": source.total, "rows": counts, "dropped": meta["dropped"], "warnings": audit["warnings"]}
    return found | ({"sources": meta["sources"]} if "sources" in meta else {})


def open_source(
    data: DataConfig, model: ModelConfig, tokenizer: Tokenizer, graded: str | None = None, choosing: bool = True
) -> Source:
    """Return the rows or conversations of the data's files, once their columns and the template were checked.

    Args:
        choosing: whether to find out which rows of several sources are taken.

    Raises:
        UserError: see `prepare_shards`; or there is no chat template, or it is not prefix-stable.
    """
    chat, encoder = data.turns, None
    if chat is not None:
        folder = model_folder(model.path, model.revision)
        template = load_chat_template(folder, data.chat_template, chat.system, chat.variables)
        family = model.family or str(read_json_object(folder / "config.json").get("model_type", "")).lower()
        encoder = turn_encoder(template, tokenizer, family)
    check_template(data, tokenizer, None if encoder is None else encoder.control)
    each = [_open_one(one, tokenizer, encoder, graded) for one in data.of_each()]
    if data.sources is None:
        return each[0]
    opened = [(source, one.rows.files, one.rows.counts) for source, one in zip(data.named_sources, each, strict=True)]
    check_total(sum(one.total for one in each), opened[0][1][0])
    choices = [choose(*found, data.split.seed) for found in opened] if choosing else []
    return SeveralSources(each, choices, encoder)


def _open_one(
    data: DataConfig, tokenizer: Tokenizer, encoder: TurnEncoder | None, graded: str | None
) -> RowSource | TurnSource:
    """Return the rows or conversations of one source."""
    columns, messages = columns_of(data, graded)
    rows = open_rows(resolve_files(data.files), columns, data.batch_rows, messages)
    if messages:
        assert encoder is not None, "columns.messages implies data.chat"
        return TurnSource(rows, data, tokenizer, encoder, graded)
    return RowSource(rows, data, tokenizer, encoder)


def _tokenised(source: Source, among: range) -> Iterator[EncodedRows]:
    """Yield the tokenised batches that begin in the range of rows `among`, with a progress bar."""
    with Progress("tokenising", len(among)) as progress:
        for rows, encoded in _prefetched(source, among):
            yield encoded
            # The last batch may reach beyond the range.
            progress.advance(min(rows, len(among) - progress.done))


def _prefetched(source: Source, among: range) -> Iterator[tuple[int, EncodedRows]]:
    """Yield the number of rows of each batch and its documents in tokens; threads work on AHEAD more meanwhile.

    The tokenizer uses all cores and releases Python's lock; making the lists of a batch holds it. With two batches
    under way, one is tokenised while the lists of the other are made.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque[tuple[int, Future[EncodedRows]]]()
        for count, encode in source.work(among):
            waiting.append((count, pool.submit(encode)))
            if len(waiting) > AHEAD:
                rows, future = waiting.popleft()
                yield rows, future.result()
        while waiting:
            rows, future = waiting.popleft()
            yield rows, future.result()
