"""The file OUT/part.arrow: rows tokenised by one of several jobs (a part), for the job that writes the shards.

One record batch is one batch of rows, so that the shards are cut into the same batches as by a single job.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from dreamtune.data import oddities
from dreamtune.data.encode import EncodedRows

PART = "part.arrow"
TEXTS = ("questions", "reasonings", "answers")
TOKENS = ("prompts", "reasoning_ids", "answer_ids")
TURNS = ("references", "contexts")  # null in every row but those of conversations
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in (*TEXTS, "dropped", *TURNS)),
        *((name, pa.list_(pa.int32())) for name in TOKENS),
        ("unknown", pa.int64()),  # EncodedRows.unknown of the whole batch, repeated in each of its rows
        *oddities.FLAG_COLUMNS,
    ]
)


def write_part(batches: Iterable[EncodedRows], out: Path) -> int:
    """Write tokenised batches to OUT/part.arrow; return the number of rows."""
    count, options = 0, pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(str(out / PART), SCHEMA, options=options) as stream:
        for rows in batches:
            columns = [pa.array(getattr(rows, name), pa.string()) for name in (*TEXTS, "dropped")]
            nothing = [None] * len(rows.questions)
            columns += [pa.array(getattr(rows, name) or nothing, pa.string()) for name in TURNS]
            columns += [_list_array(getattr(rows, name)) for name in TOKENS]
            columns += [pa.array(np.full(len(rows.questions), rows.unknown), pa.int64())]
            columns += [rows.flags[field.name].to_arrow().cast(field.type) for field in oddities.FLAG_COLUMNS]
            stream.write_batch(pa.record_batch(columns, SCHEMA))
            count += len(rows.questions)
    return count


def read_parts(folders: Iterable[Path]) -> Iterator[EncodedRows]:
    """Yield the tokenised batches of all parts, in the order of `folders`, the parts' output folders."""
    for folder in folders:
        with pa.OSFile(str(folder / PART)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                table = pl.from_arrow(batch.select(oddities.FLAG_COLUMNS.names))
                assert isinstance(table, pl.DataFrame)
                texts = (batch.column(name).to_pylist() for name in (*TEXTS, "dropped"))
                questions, reasonings, answers, dropped = texts
                references, contexts = (_filled(batch.column(name)) for name in TURNS)
                tokens = (_lists(batch.column(name)) for name in TOKENS)
                prompts, reasoning_ids, answer_ids = tokens
                yield EncodedRows(
                    questions=questions,
                    reasonings=reasonings,
                    answers=answers,
                    dropped=np.array(dropped, object),
                    prompts=prompts,
                    reasoning_ids=reasoning_ids,
                    answer_ids=answer_ids,
                    unknown=batch.column("unknown")[0].as_py(),
                    flags=table,
                    references=references,
                    contexts=contexts,
                )


def _filled(column: pa.StringArray) -> list[str] | None:
    """Return a column's texts, None if it holds none."""
    return None if column.null_count else column.to_pylist()


def _list_array(lists: Sequence[Sequence[int]]) -> pa.ListArray:
    """Return lists of tokens as an Arrow array, ten times as fast as pa.array of nested lists."""
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(each) for each in lists], out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(lists), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _lists(column: pa.ListArray) -> list[list[int]]:
    """Return an Arrow array of lists as Python lists."""
    tokens = column.values.to_numpy().tolist()
    return [tokens[start:end] for start, end in pairwise(column.offsets.to_pylist())]
