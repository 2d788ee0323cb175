"""Finding the files, and reading their columns as text."""

from decimal import Decimal
from pathlib import Path

import huggingface_hub
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamtune.errors import UserError
from dreamtune.inputs.cells import BATCH_BYTES
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.parquet_rows import as_text
from dreamtune.inputs.rows import open_rows

PINNED = "hf://datasets/owner/name@" + "0123456789" * 4 + "/data/train.parquet"


def test_globs_are_sorted_patterns_keep_their_order_and_no_file_comes_twice(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "[odd].parquet", "z.txt"):
        (tmp_path / name).touch()
    found = resolve_files([str(tmp_path / "b.*"), str(tmp_path / "*.parquet"), str(tmp_path / "[odd].parquet")])
    assert [path.name for path in found] == ["b.parquet", "[odd].parquet", "a.parquet"]


def test_what_cannot_be_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches .*nothing\*\.parquet"):
        resolve_files([str(tmp_path / "nothing*.parquet")])
    with pytest.raises(UserError, match="is a folder"):
        resolve_files([str(tmp_path)])
    with pytest.raises(UserError, match="no data files"):
        resolve_files([])


@pytest.mark.parametrize("address", [PINNED.replace("@" + "0123456789" * 4, "@main"), "hf://models/a/b@" + "0" * 40])
def test_hub_files_must_be_pinned(address: str) -> None:
    with pytest.raises(UserError, match="40-digit"):
        resolve_files([address])


def test_hub_files_are_found_in_the_cache_at_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repository: str, file: str, **given: str) -> str:
        assert (repository, file) == ("owner/name", "data/train.parquet")
        assert given == {"repo_type": "dataset", "revision": "0123456789" * 4}
        return "/cache/train.parquet"

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert resolve_files([PINNED]) == [Path("/cache/train.parquet")]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"train\.parquet is not in the hub's cache .*: snakemake download --cores 1"):
        resolve_files([PINNED])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", None, ""]), ["a", None, ""]),
        (pa.array(["a", None, "b", "a"], pa.large_string()).dictionary_encode(), ["a", None, "b", "a"]),
        (pa.array(["b", None], pa.dictionary(pa.uint32(), pa.string())), ["b", None]),
        (pa.array([42, None]), ["42", None]),
        (pa.array([42.0, 0.5, None, float("nan"), 1e300]), ["42", "0.5", None, None, "1e+300"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([Decimal("12.50")]), ["12.50"]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_values_become_text(values: pa.Array, expected: list[str | None]) -> None:
    assert as_text(values) == expected


def test_batches_cover_all_files_in_order_and_long_rows_make_them_smaller(tmp_path: Path) -> None:
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    pl.DataFrame({"q": [str(i) for i in range(7)], "x": 0}).write_parquet(first)
    pl.DataFrame({"q": [7, 8, 9]}).write_parquet(second)
    rows = open_rows([first, second], ["q"], batch_rows=3)
    batches = [batch["q"] for batch in rows.batches(["q"])]
    assert (
        rows.rows == 10
        and [t for b in batches for t in b] == [str(i) for i in range(10)]
        and max(map(len, batches)) == 3
    )
    pq.write_table(pa.table({"q": ["x" * 2**20, "y" * 2**20]}), first, use_dictionary=False)
    assert open_rows([first], ["q"], batch_rows=2_000).batch_rows <= BATCH_BYTES // 2**20


def write(path: Path, **columns: object) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    good = write(tmp_path / "1.parquet", question=["a"], solution=["b"])
    bad = write(tmp_path / "2.parquet", questions=["a"], solution=["b"])
    with pytest.raises(UserError) as error:
        open_rows([good, bad], ["question"], 10)
    message = str(error.value)
    assert "2.parquet" in message and "'question'" in message and "did you mean 'questions'" in message
    assert "questions, solution" in message and "\n" not in message


def test_files_that_are_not_rows_of_text_are_refused(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.parquet", tmp_path / "text.parquet"
    empty.touch()
    text.write_text("question,answer\n1,2\n")
    with pytest.raises(UserError, match="empty file"):
        open_rows([empty], ["q"], 10)
    with pytest.raises(UserError, match="not a parquet file"):
        open_rows([text], ["q"], 10)
    with pytest.raises(UserError, match="no rows"):
        open_rows([write(tmp_path / "0.parquet", q=pl.Series([], dtype=pl.String))], ["q"], 10)
    with pytest.raises(UserError, match="holds large_list"):
        open_rows([write(tmp_path / "list.parquet", q=[["a"]])], ["q"], 10)


def test_a_file_broken_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", q=[str(i) * 50 for i in range(5_000)])
    content = bytearray(path.read_bytes())
    content[100:4000] = bytes(3900)
    path.write_bytes(content)
    rows = open_rows([path], ["q"], 100)
    with pytest.raises(UserError, match=r"q\.parquet cannot be read, column 'q', from row \d+ on .*: "):
        list(rows.batches(["q"]))


def test_numbers_are_written_in_their_own_precision() -> None:
    """A reference of 3.140000104904175 would mark 3.14 as wrong."""
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        values = np.array([0.1, 3.14, 42.0, np.nan], kind.to_pandas_dtype())
        assert as_text(pa.array(values, kind)) == ["0.1", "3.14", "42", None]


def test_two_columns_of_one_name_and_broken_text_are_one_line(tmp_path: Path) -> None:
    twice = pa.table([["a"], ["b"]], names=["question", "question"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="2 columns named 'question'"):
        open_rows([tmp_path / "twice.parquet"], ["question"], 10)
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table([broken], names=["question"]), tmp_path / "broken.parquet")
    with pytest.raises(UserError, match=r"broken\.parquet, row 0 .*, column 'question' is not UTF-8"):
        list(open_rows([tmp_path / "broken.parquet"], ["question"], 10).batches(["question"]))


def test_a_few_texts_are_found_by_their_row_across_files_and_batches(tmp_path: Path) -> None:
    for name, first, count in (("a", 0, 5), ("b", 5, 7)):
        texts = [None if i == 6 else f"text {i}" for i in range(first, first + count)]
        pl.DataFrame({"q": texts}).write_parquet(tmp_path / f"{name}.parquet")
    rows = open_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"], ["q"], batch_rows=2)
    expected = {0: "text 0", 4: "text 4", 5: "text 5", 6: "", 11: "text 11"}
    assert rows.texts_at("q", [11, 4, 0, 5, 6, 4]) == expected
    assert rows.texts_at("q", []) == {}
