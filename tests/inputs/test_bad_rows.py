"""Files that are no rows, cells that are no text, and a few bytes that stand for gigabytes: one line each."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamtune.errors import UserError
from dreamtune.inputs import cells
from dreamtune.inputs import rows as inputs
from dreamtune.inputs.cells import CELL_BYTES
from dreamtune.inputs.files import resolve_files
from dreamtune.inputs.rows import open_rows

HEX = "0123456789" * 4


def texts(path: Path, column: str = "q", batch_rows: int = 1_000) -> list[str | None]:
    return [text for batch in open_rows([path], [column], batch_rows).batches([column]) for text in batch[column]]


def refused(path: Path, column: str = "q") -> str:
    """Return the line with which a file is refused, less its path."""
    with pytest.raises(UserError) as error:
        texts(path, column)
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line
    return line.removeprefix(str(path))


@contextmanager
def bounded(mib: int, seconds: float) -> Iterator[None]:
    """Give the process at most `mib` MiB more address space, and fail if the block takes more CPU time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, started = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - started < seconds


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", " is a Git LFS pointer"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", " is a Git LFS pointer"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0", " is compressed by gzip; unpack it"),
        ("a.xlsx", b"PK\x03\x04", " is a ZIP archive or an Excel sheet"),
        ("a.parquet", b"<!DOCTYPE html><html>", " is a web page; download the file itself"),
        ("a.json", b'[{"q": 1}]', " is one JSON array; write one object a line"),
        ("a.csv", "q,a\n1,2\n".encode("utf-16"), " is UTF-16; save it as UTF-8"),
        ("a.txt", b"q,a\n1,2\n", " is not a parquet file; CSV and JSON lines are read from files named *.csv"),
        ("a.parquet", b"PAR1 cut short", " is not a parquet file that can be read: "),
    ],
)
def test_a_file_that_holds_no_rows_gets_a_line_on_what_to_do(
    tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(line)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("https://example.org/rows.parquet", "download it first (curl -LO) and name the local file"),
        ("s3://bucket/rows.parquet", "download it first (aws s3 cp)"),
        ("gs://bucket/rows.parquet", "download it first"),
        ("file:///data/rows.parquet", "name local files by their path, /data/rows.parquet"),
        (
            f"https://huggingface.co/datasets/me/sums/resolve/{HEX}/d/a.parquet",
            f"hf://datasets/me/sums@{HEX}/d/a.parquet",
        ),
        (
            "https://huggingface.co/datasets/me/sums/blob/main/a.parquet?download=true",
            "write hf://datasets/me/sums@REVISION/a.parquet with the 40-digit commit",
        ),
    ],
)
def test_an_address_on_the_network_gets_a_line_on_what_to_do(address: str, advice: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_files([address])
    assert str(error.value).startswith(address) and advice in str(error.value)


def test_csv_and_json_lines_are_read_like_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeffx,q,a\n1,"one, ""1""",007\n\n2,"two\nlines",\n3,é,3.0\n', encoding="utf-8")
    (tmp_path / "b.tsv").write_text("q\ta\nfour\t4\n")
    lines = [{"q": "five", "a": 5}, {"a": 6.0, "q": None}, {"q": True, "a": float("nan")}, {"q": "8\u2028"}]
    (tmp_path / "c.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + " \n")
    files = resolve_files([str(tmp_path / "*.*")])
    expected = [
        *[('one, "1"', "007"), ("two\nlines", None), ("é", "3.0"), ("four", "4")],
        *[("five", "5"), (None, "6"), ("true", None), ("8\u2028", None)],
    ]
    for size in (1, 2, 100):
        rows = open_rows(files, ["q", "a"], size)
        batches = list(rows.batches(["q", "a"]))
        assert [pair for batch in batches for pair in zip(batch["q"], batch["a"], strict=True)] == expected
        halves = [rows.batches(["q", "a"], half) for half in (range(3), range(3, rows.rows))]
        assert rows.rows == 8 and [batch for half in halves for batch in half] == batches


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"x,q\n1,2\n3,caf\xe9\n", ", line 3, column 'q' is not UTF-8"),
        ("a.csv", b"x,q\n1,2\n3\n", ", line 3: 1 cells, where the header has 2"),
        ("a.csv", b'x,q\n1,"2\n3,4\n', ", line 3 is not CSV: unexpected end of data"),
        ("a.csv", b"q,q\n1,2\n", " has 2 columns named 'q'"),
        ("a.csv", b"question\n1\n", " has no column 'q'"),
        ("a.jsonl", b'{"q": 1}\n{"q": "\xff"}\n', ", line 2, column 'q' is not UTF-8"),
        ("a.jsonl", b'{"q": "\\ud800"}\n', ", line 1, column 'q' is not UTF-8"),
        ("a.jsonl", b'{"q": 1}\n\n{"q": \n', ", line 3 is not JSON: Expecting value"),
        ("a.jsonl", b'{"q": 1}\n[1]\n', ", line 2: [1]; expected one JSON object a line"),
        ("a.jsonl", b'{"q": 1}\n{"q": ["a"]}\n', ", line 2, column 'q': [\"a\"]; expected text or a number"),
        ("a.jsonl", b'{"q": 1}\n{"q": 1, "q": 2}\n', ", line 2 is not JSON: the key 'q' stands in an object twice"),
        (
            "a.json",
            b'{\n "q": 1\n}\n',
            ", line 1 is not JSON: Expecting property name enclosed in double quotes; write one",
        ),
        (
            "a.jsonl",
            b'{"q": {"text": ["a"]}}\n',
            ', line 1, column \'q\': {"text": ["a"]}; expected text or a number; write',
        ),
        ("a.jsonl", b'{"q": ' + b"9" * 5_000 + b"}\n", ", line 1 is not JSON: "),
        ("a.jsonl", b"[" * 100_000, " is one JSON array"),
        ("a.jsonl", b'{"q": ' + b"[" * 100_000, ", line 1 is not JSON: "),
        ("a.jsonl", b'{"x": 1}\n', " has no column 'q'; its columns are: x"),
        ("a.jsonl", b'{"x": 1}\n' * 1001, " has no column 'q'; the columns of its first 1,000 rows are: x"),
    ],
)
def test_a_broken_cell_of_a_text_file_is_named_by_line_and_column(
    tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(line)


def test_a_broken_cell_of_parquet_is_named_by_row_and_column(tmp_path: Path) -> None:
    good = [f"text {i}".encode() for i in range(5_000)]
    good[3_210] = b"caf\xe9"
    column = pa.array(good)
    broken = pa.Array.from_buffers(pa.string(), len(column), column.buffers())
    for dictionary in (True, False):
        table = pa.table({"x": pa.array(range(5_000)), "q": broken})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=700, use_dictionary=dictionary)
        assert refused(tmp_path / "a.parquet").startswith(", row 3210 (the first is row 0), column 'q' is not UTF-8")


def test_one_changed_byte_of_a_page_with_a_checksum_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": ["same"] * 4_000, "q": [f"row {i:05}" for i in range(4_000)]})
    options = {"use_dictionary": False, "compression": "none", "data_page_size": 4_096, "write_page_checksum": True}
    pq.write_table(table, path, write_batch_size=100, **options)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"row 02345", b"row 12345"))
    line = refused(path)
    assert line.startswith(" cannot be read, column 'q', from row 2000 on (the first is row 0): ")


def test_class_labels_and_categories_are_read_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    features = {
        "q": {"names": ["negative", "positive"], "_type": "ClassLabel"},
        "n": {"dtype": "int64", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(
        {"q": [1, 0, None, -1], "n": [1, 0, None, -1], "c": pa.array(["x", "y", None, "x"]).dictionary_encode()}
    )
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert texts(path) == ["positive", "negative", None, None]
    assert texts(path, "n") == ["1", "0", None, "-1"] and texts(path, "c") == ["x", "y", None, "x"]
    pq.write_table(pa.table({"q": [0, 2]}).replace_schema_metadata(metadata), path)
    with pytest.raises(UserError, match=r"column 'q' of .* holds class 2, where the file's metadata names 2 classes"):
        texts(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), path)
    assert "damaged metadata of the library datasets" in refused(path)


def test_one_huge_text_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for dictionary in (True, False):
        table = pa.table({"q": ["a" * 100_000_000]})
        pq.write_table(table, path, compression="zstd", use_dictionary=dictionary, write_statistics=False)
        del table
        assert path.stat().st_size < 4_096
        with bounded(mib=64, seconds=1):
            assert ", row group 0, column 'q' holds a text of 100,000,0" in refused(path)


def test_a_huge_text_among_small_ones_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a"] * 150 + ["b" * (CELL_BYTES + 1)] + ["c"] * 49}), path, compression="zstd")
    assert refused(path).startswith(", row 150 (the first is row 0), column 'q' holds a text of 16,777,217 bytes")
    pq.write_table(pa.table({"q": ["b" * CELL_BYTES]}), path, compression="zstd")
    assert [len(text or "") for text in texts(path)] == [CELL_BYTES]


def test_rows_that_repeat_a_text_into_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    options = {"compression": "zstd", "dictionary_pagesize_limit": 2 * CELL_BYTES, "write_statistics": False}
    for size, rows in ((6_000, 10_000_000), (CELL_BYTES, 4_000)):  # 60 and 67 GB of text
        codes = pa.array(np.zeros(rows, np.int32))
        table = pa.table({"q": pa.DictionaryArray.from_arrays(codes, pa.array(["w" * size]))})
        pq.write_table(table, path, row_group_size=rows, **options)
        assert path.stat().st_size < 2**16
        with bounded(mib=512, seconds=5):
            assert " holds more than 1000 times as much text" in refused(path)


def test_a_batch_of_long_repeated_texts_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a" * 2**23] * 9 + ["b"]}), path, dictionary_pagesize_limit=2**24)
    rows = open_rows([path], ["q"], 1_000)
    assert [len(batch["q"]) for batch in rows.batches(["q"])] == [4, 4, 2]


def test_more_rows_than_memory_can_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"q": ["a"] * 11}), path)
    monkeypatch.setattr(inputs, "MOST_ROWS", 10)
    assert cells.MOST_ROWS > 10**7
    with pytest.raises(UserError, match=r"11 rows in .*; at most 10 can be read"):
        texts(path)


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(2**33)  # a sparse file of 8 GiB
    with bounded(mib=1_024, seconds=10):
        assert "line 1 has 67,108,864 characters or more" in refused(path)
