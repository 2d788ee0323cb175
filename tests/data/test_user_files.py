"""What becomes of the user's files as a whole: text files, and files of which half of the rows are dropped."""

import json
from pathlib import Path

import polars as pl
import pytest

from dreamtune.data.prepare import prepare_shards
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from rows import TEMPLATE, prepare, read

THREE = {"question": ["w4", "w5 w5", "w6"], "reasoning": ["w7 w8", "w9", "w10"], "answer": ["w11", "w12", "w13 w14"]}


def test_half_of_the_rows_dropped_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"question": ["w4", "w5", "w6", "w7"], "reasoning": ["", "", "", None], "answer": ["w8", None, "w9", "w10"]}
    out, counts = prepare(tmp_path, rows)
    line = "2 of 4 rows are dropped (null_answer 1, null_reasoning 1); check data.columns and the settings"
    assert capsys.readouterr().err.count(f"warning: {line}") == 1
    assert counts["warnings"][0].startswith(line)
    assert json.loads((out / "audit.json").read_text())["warnings"][0].startswith(line)
    _, counts = prepare(tmp_path, {name: [*column, column[0]] for name, column in rows.items()})
    assert not [text for text in counts["warnings"] if "are dropped" in text]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_text_files_make_the_shards_that_parquet_makes(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame(THREE)
    expected = read(prepare(tmp_path, THREE)[0])
    table.write_ndjson(tmp_path / name) if name.endswith("jsonl") else table.write_csv(tmp_path / name)
    data = DataConfig(files=[str(tmp_path / name)], split={"validation": 0.0, "test": 0.0}, template=TEMPLATE)
    (tmp_path / "text").mkdir()
    prepare_shards(data, ModelConfig(path=str(tmp_path / "model")), tmp_path / "text")
    assert read(tmp_path / "text") == expected
