"""The tables that `prepare_shards` writes: examples for the shards, and lengths.parquet for the audit."""

from itertools import chain

import numpy as np
import pyarrow as pa

from dreamtune.data import oddities
from dreamtune.data.encode import EncodedRows
from dreamtune.data.survey import SPLIT_NAMES
from dreamtune.data.truncation import Fit
from dreamtune.formats.shards import SHARD
from dreamtune.formats.turns import TURNS

LENGTHS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("split", pa.string()),  # null for a row without a question
        ("dropped", pa.string()),  # the reason; null for a row that is in the shards
        ("prompt_tokens", pa.int32()),  # null, like all lengths below, for a row without usable text
        ("reasoning_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),  # with the template's words that introduce the answer
        ("tokens", pa.int32()),  # the whole example before truncation, its end token included
        ("kept_tokens", pa.int32()),  # null for a dropped row
        ("question_characters", pa.int32()),
        ("reasoning_characters", pa.int32()),
        ("answer_characters", pa.int32()),
        *oddities.FLAG_COLUMNS,  # flags for oddities of the text; null, too, for a row without usable text
    ]
)


def shard_table(
    rows: EncodedRows,
    outcome: Fit,
    chosen: np.ndarray,
    ids: np.ndarray,
    clusters: np.ndarray,
    end_id: int,
    from_start: bool,
) -> pa.Table:
    """Return rows as a table for the shards, with the columns `formats.shards.SHARD`.

    Args:
        rows: a batch.
        outcome: what truncation keeps of each row.
        chosen: [n] places in the batch of the rows that are written.
        ids: [n] int64, the example ids of these rows.
        clusters: [n] int64, their cluster keys.
        end_id: the end token, which follows a complete answer.
        from_start: cut the start of a reasoning that is too long instead of its end.
    """
    segments = [tokens for i in chosen for tokens in _segments(rows, outcome, i, [end_id], from_start)]
    offsets = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum(outcome.tokens[chosen], out=offsets[1:])
    # One flat array with offsets: pa.array of nested lists takes ten times as long.
    flat = np.fromiter(chain.from_iterable(segments), np.int32, int(offsets[-1]))
    references = rows.answers if rows.references is None else rows.references
    columns = [
        pa.array(ids, pa.int64()),
        pa.array(clusters, pa.int64()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        pa.array([len(rows.prompts[i]) for i in chosen], pa.int32()),
        pa.array(outcome.complete[chosen], pa.bool_()),
        pa.array([rows.questions[i] for i in chosen], pa.string()),
        pa.array([references[i] for i in chosen], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SHARD)


def turns_table(
    encoded: EncodedRows, ids: np.ndarray, rows: np.ndarray, turns: np.ndarray, shown: np.ndarray
) -> pa.Table:
    """Return the rows of turns.parquet, a table with the schema TURNS, for a batch of conversations' turns.

    Args:
        encoded: the batch.
        ids, rows, turns: [documents] example ids, numbers of the conversations, and of the turns in them.
        shown: [documents] bool, those whose texts are kept for the report.
    """
    contexts = encoded.contexts or [""] * len(ids)  # rows beside conversations have none
    texts = [pa.array(text, pa.string(), mask=~shown) for text in (contexts, encoded.answers)]
    numbers = [pa.array(ids, pa.int64()), pa.array(rows, pa.int32()), pa.array(turns, pa.int32())]
    return pa.Table.from_arrays([*numbers, *texts], schema=TURNS)


def lengths_table(
    rows: EncodedRows, outcome: Fit, ids: np.ndarray, splits: np.ndarray, dropped: np.ndarray
) -> pa.Table:
    """Return the rows of lengths.parquet, a table with the schema LENGTHS, for a batch.

    Args:
        rows: a batch.
        outcome: what truncation keeps of each row.
        ids: [rows] example ids.
        splits: [rows] indices into SPLIT_NAMES.
        dropped: [rows] object; reasons, "" for a row in the shards.
    """
    prompt, reasoning, answer = rows.lengths()
    unusable = rows.dropped != ""
    texts = [
        np.fromiter(map(len, field), np.int32, len(ids)) for field in (rows.questions, rows.reasonings, rows.answers)
    ]
    lengths = [prompt, reasoning, answer, prompt + reasoning + answer + 1]
    columns = [pa.array(ids, pa.int64()), pa.array([SPLIT_NAMES[s] for s in splits], pa.string())]
    columns += [pa.array([reason or None for reason in dropped], pa.string())]
    columns += [pa.array(tokens.astype(np.int32), pa.int32(), mask=unusable) for tokens in lengths]
    columns += [pa.array(outcome.tokens.astype(np.int32), pa.int32(), mask=(dropped != ""))]
    columns += [pa.array(characters, pa.int32(), mask=unusable) for characters in texts]
    columns += [
        pa.array(rows.flags[field.name].to_numpy(), field.type, mask=unusable) for field in oddities.FLAG_COLUMNS
    ]
    return pa.Table.from_arrays(columns, schema=LENGTHS)


def _segments(rows: EncodedRows, outcome: Fit, i: int, end: list[int], from_start: bool) -> tuple[list[int], ...]:
    """Return the token lists that make up row `i` after truncation: prompt, reasoning, answer and, if complete, `end`.

    Together they hold `outcome.tokens[i]` tokens.
    """
    prompt, reasoning, kept = rows.prompts[i], rows.reasoning_ids[i], int(outcome.reasoning[i])
    if kept < len(reasoning):
        reasoning = reasoning[len(reasoning) - kept :] if from_start else reasoning[:kept]
    if outcome.complete[i]:
        return prompt, reasoning, rows.answer_ids[i], end
    return prompt, reasoning, rows.answer_ids[i][: int(outcome.tokens[i]) - len(prompt) - kept]
