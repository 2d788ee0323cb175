"""Shards made by K jobs: the same bytes for any K, whatever the files, and what needs all rows is decided over all."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.data.prepare import prepare_shards
from dreamtune.inputs.rows import open_rows
from dreamtune.part import Part
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from rows import TEMPLATE, write_tokenizer

ROWS = 61
ASKED = "w90 w80 w70 w60"  # a benchmark's question, in the answers of some rows


def write_files(folder: Path, sizes: list[int]) -> list[str]:
    """Write rows with duplicates, gaps, oddities and shared n-grams, cut into files of these sizes."""
    words = [" ".join(f"w{4 + (i * 7 + j) % 90}" for j in range(3 + i % 9)) for i in range(ROWS)]
    table = pl.DataFrame(
        {
            "question": [words[i % 40] if i % 11 else None for i in range(ROWS)],
            "reasoning": [f"{words[-i][:8]} <br> zz" if i % 5 else words[i][:8] for i in range(ROWS)],
            "answer": [(words[i // 2][:8] if i % 7 else ASKED) if i % 13 else " " for i in range(ROWS)],
        }
    )
    files, start = [], 0
    for number, size in enumerate(sizes):
        files.append(str(folder / f"rows-{number}.parquet"))
        table[start : start + size].write_parquet(files[-1], row_group_size=7)
        start += size
    assert start == ROWS
    return files


@pytest.mark.parametrize("sizes", [[ROWS], [10, 0, 3, 30, 18]], ids=["one file", "five files, one empty"])
@pytest.mark.parametrize("count", [2, 3, 7, 80])
def test_shards_are_the_same_bytes(tmp_path: Path, sizes: list[int], count: int) -> None:
    files = write_files(tmp_path, sizes)
    data = DataConfig(
        files=files,
        template=TEMPLATE,
        split={"validation": 0.2, "test": 0.2},
        max_tokens=24,
        duplicates="drop",
        contaminated="drop",
        ngram=4,
        rows_per_shard=9,
        batch_rows=5,
    )
    model = ModelConfig(path=write_tokenizer(tmp_path / "model"))
    pl.DataFrame({"q": [ASKED, "w5"], "a": ["w6", "w6"]}).write_parquet(tmp_path / "benchmark.parquet")
    benchmarks = [Benchmark(name="b", files=[str(tmp_path / "benchmark.parquet")], question="q", answer="a")]

    def make(out: Path, part: Part | None = None, parts: Any = ()) -> dict[str, Any]:
        out.mkdir(parents=True)
        return prepare_shards(data, model, out, benchmarks, part, parts)

    expected = make(tmp_path / "one")
    assert {"duplicate", "null_question", "empty_answer", "contaminated_by_benchmark"} <= expected["dropped"].keys()
    folders = [tmp_path / f"part-{number}" for number in range(1, count + 1)]
    rows = [make(folder, Part(number, count))["rows"] for number, folder in enumerate(folders, 1)]
    assert sum(rows) == ROWS and (count < 10 or 0 in rows)
    assert make(tmp_path / "whole", parts=folders) == expected
    assert contents(tmp_path / "whole") == contents(tmp_path / "one")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stretches_take_whole_batches_and_each_once(tmp_path: Path) -> None:
    files = [Path(name) for name in write_files(tmp_path, [20, 21, 20])]
    rows = open_rows(files, ["answer"], 8)
    assert [len(batch["answer"]) for batch in rows.batches(["answer"], range(20, 41))] == [8, 8, 5]
    batches = list(rows.batches(["answer"]))
    for count in (1, 2, 5, 61, 99):
        stretches = [Part(number, count).stretch(rows.rows) for number in range(1, count + 1)]
        assert [batch for stretch in stretches for batch in rows.batches(["answer"], stretch)] == batches
