"""The tables `prepare_shards` writes: examples for the shards, lengths for the audit."""

from itertools import chain

import numpy as np
import pyarrow as pa

from dreamtune.data import oddities
from dreamtune.data.encode import EncodedRows
from dreamtune.data.survey import SPLIT_NAMES
from dreamtune.data.truncation import Fit
from dreamtune.formats.shards import SHARD

LENGTHS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("split", pa.string()),  # null where the row has no question
        ("dropped", pa.string()),  # the reason; null for a row that is in the shards
        ("prompt_tokens", pa.int32()),  # null, like all lengths below, where the row has no usable text
        ("reasoning_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),  # the words that introduce the answer included
        ("tokens", pa.int32()),  # the whole example before truncation, its end token included
        ("kept_tokens", pa.int32()),  # null for a dropped row
        ("question_characters", pa.int32()),
        ("reasoning_characters", pa.int32()),
        ("answer_characters", pa.int32()),
        *oddities.FLAG_COLUMNS,  # what looks odd about the text; null, too, where there is none
    ]
)


def shard_table(
    rows: EncodedRows, outcome: Fit, chosen: np.ndarray, ids: np.ndarray, end_id: int, from_start: bool
) -> pa.Table:
    """Join the parts of the `chosen` rows [chosen] into a table of `formats.shards.SHARD`.

    `ids` [rows] are the example ids; `from_start` cuts the start of the reasoning instead of its end.
    """
    parts = [part for i in chosen for part in _parts(rows, outcome, i, [end_id], from_start)]
    offsets = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum(outcome.tokens[chosen], out=offsets[1:])
    # pa.array on nested lists would cost ten times as much.
    flat = np.fromiter(chain.from_iterable(parts), np.int32, int(offsets[-1]))
    columns = [
        pa.array(ids[chosen], pa.int64()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        pa.array([len(rows.prompts[i]) for i in chosen], pa.int32()),
        pa.array(outcome.complete[chosen], pa.bool_()),
        pa.array([rows.questions[i] for i in chosen], pa.string()),
        pa.array([rows.answers[i] for i in chosen], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SHARD)


def lengths_table(
    rows: EncodedRows, outcome: Fit, ids: np.ndarray, splits: np.ndarray, dropped: np.ndarray
) -> pa.Table:
    """Return a table of `LENGTHS` for a batch: `splits` [rows] numbers SPLIT_NAMES, `dropped` [rows] holds reasons."""
    prompt, reasoning, answer = rows.lengths()
    unusable = rows.dropped != ""
    texts = [
        np.fromiter(map(len, part), np.int32, len(ids)) for part in (rows.questions, rows.reasonings, rows.answers)
    ]
    lengths = [prompt, reasoning, answer, prompt + reasoning + answer + 1]
    columns = [pa.array(ids, pa.int64()), pa.array([SPLIT_NAMES[s] for s in splits], pa.string())]
    columns += [pa.array([reason or None for reason in dropped], pa.string())]
    columns += [pa.array(part.astype(np.int32), pa.int32(), mask=unusable) for part in lengths]
    columns += [pa.array(outcome.tokens.astype(np.int32), pa.int32(), mask=(dropped != ""))]
    columns += [pa.array(part, pa.int32(), mask=unusable) for part in texts]
    columns += [
        pa.array(rows.flags[field.name].to_numpy(), field.type, mask=unusable) for field in oddities.FLAG_COLUMNS
    ]
    return pa.Table.from_arrays(columns, schema=LENGTHS)


def _parts(rows: EncodedRows, outcome: Fit, i: int, end: list[int], from_start: bool) -> tuple[list[int], ...]:
    """Return the token lists that make up row `i`, `outcome.tokens[i]` in all."""
    prompt, reasoning, kept = rows.prompts[i], rows.reasoning_ids[i], int(outcome.reasoning[i])
    if kept < len(reasoning):
        reasoning = reasoning[len(reasoning) - kept :] if from_start else reasoning[:kept]
    if outcome.complete[i]:
        return prompt, reasoning, rows.answer_ids[i], end
    return prompt, reasoning, rows.answer_ids[i][: int(outcome.tokens[i]) - len(prompt) - kept]
