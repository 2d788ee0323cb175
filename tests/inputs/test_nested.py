"""Columns of lists: read as JSON text where the caller allows it, within the bounds of all texts."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamtune.errors import UserError
from dreamtune.inputs.cells import BATCH_BYTES, CELL_BYTES
from dreamtune.inputs.parquet_rows import _bytes_of
from dreamtune.inputs.rows import open_rows

SAID = [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "42", "name": None}]
ROWS: list[Any] = [SAID, [], None, [{"role": "user", "content": None}], SAID]


def parquet(file: Path, rows: list[Any], name: str = "said", **options: Any) -> Path:
    pq.write_table(pa.table({name: rows}), file, **options)
    return file


def read(file: Path, batch_rows: int = 2) -> list[str | None]:
    rows = open_rows([file], ["said"], batch_rows, nested=["said"])
    return [text for batch in rows.batches(["said"]) for text in batch["said"]]


def test_lists_of_parquet_and_of_json_lines_are_the_same_text(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"said": row}) + "\n" for row in ROWS))
    columns = read(parquet(tmp_path / "rows.parquet", ROWS, row_group_size=3))
    assert [text and json.loads(text) for text in read(lines)] == ROWS
    found = [text and [{k: v for k, v in m.items() if v is not None} for m in json.loads(text)] for text in columns]
    assert found == [row and [{k: v for k, v in m.items() if v is not None} for m in row] for row in ROWS]
    assert "Grüße" in str(columns[0])


def test_sizes_of_lists_are_those_of_their_texts() -> None:
    """Also of a slice, and where nulls and empty lists lie between."""
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    column = pa.array([[{"role": "user", "content": "abc"}], None, [], [{"role": "u", "content": None}] * 2], kind)
    assert _bytes_of(column).tolist() == [7, 0, 0, 2]
    assert _bytes_of(column.slice(2)).tolist() == [0, 2]


def test_what_is_in_a_list_is_bounded_as_a_text_is(tmp_path: Path) -> None:
    long = [{"role": "user", "content": "x" * (CELL_BYTES // 2)}] * 3
    with pytest.raises(UserError, match=r"row 1 .*'said' holds a text of 25,165,8\d\d bytes"):
        read(parquet(tmp_path / "long.parquet", [SAID, long]))
    many = parquet(tmp_path / "many.parquet", [[{"role": "user", "content": f"{n}" * 2**20}] for n in range(9)] * 8)
    rows = open_rows([many], ["said"], 2_000, nested=["said"])
    assert all(sum(len(t or "") for t in batch["said"]) <= 1.1 * BATCH_BYTES for batch in rows.batches(["said"]))


def test_a_column_with_a_dot_in_its_name_is_no_list(tmp_path: Path) -> None:
    rows = open_rows([parquet(tmp_path / "dot.parquet", ["x" * 2**20] * 3, "a.b")], ["a.b"], 1_000)
    assert next(batch["a.b"][0] for batch in rows.batches(["a.b"])) == "x" * 2**20 and rows.batch_rows < 1_000


def test_lists_elsewhere_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected text or numbers; .* named by data\.columns\.messages"):
        open_rows([parquet(tmp_path / "rows.parquet", ROWS)], ["said"], 10)
    with pytest.raises(UserError, match=r"expected text or numbers; write the text that is meant"):
        open_rows([parquet(tmp_path / "squad.parquet", [{"text": ["42"]}])], ["said"], 10)
    lines = tmp_path / "rows.jsonl"
    lines.write_text(json.dumps({"said": SAID}))
    with pytest.raises(UserError, match=r"line 1, column 'said'.* named by data\.columns\.messages"):
        open_rows([lines], ["said"], 10)  # while planning, before any row is read


def test_times_and_decimals_beside_a_message_are_text(tmp_path: Path) -> None:
    """As in WildChat's conversations, whose messages have a timestamp."""
    when, cost = datetime.datetime(2024, 7, 26, 1, 2, 3), decimal.Decimal("0.50")
    [text] = read(parquet(tmp_path / "rows.parquet", [[SAID[0] | {"at": when, "cost": cost}]]))
    assert json.loads(str(text)) == [SAID[0] | {"at": "2024-07-26 01:02:03", "cost": "0.50"}]


def test_lists_of_one_length_are_lists(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]), 1)
    column = pa.array([None, [{"role": "user", "content": "Hi"}]], kind)
    pq.write_table(pa.table({"said": column}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [None, '[{"role": "user", "content": "Hi"}]']


def test_pictures_within_a_conversation_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a list of \{role, content\}, without pictures"):
        read(parquet(tmp_path / "rows.parquet", [[SAID[0] | {"image": b"\xff"}]]))
