"""Audits of several sources: a row that is shown more than once is one row, and a row of two sources is two."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.contamination.audit import audit_contamination
from dreamtune.data.prepare import prepare_shards
from dreamtune.formats.shards import COPY
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from rows import TEMPLATE, read, write_tokenizer
from tests.contamination.test_audit import benchmark, no_text

SHARED = "w10 w11 w12 w13"  # asked in both sources, and by the benchmark
ROWS = {
    "books": [SHARED, "w20 w21 w22 w23", "w30 w31 w32 w33"],
    "web": ["w40 w41 w42 w43", SHARED, "w50 w20 w21 w22"],
}
OTHERS = [f"w{60 + n} w{61 + n} w{62 + n} w{63 + n}" for n in range(20)]  # in web, some of them held out


def prepared(folder: Path, weights: tuple[float, float], split: dict[str, float], duplicates: str = "keep") -> Path:
    sources = []
    for (name, questions), weight in zip(ROWS.items(), weights, strict=True):
        asked = [*questions, *(OTHERS if name == "web" else [])]
        rows = {"question": asked, "reasoning": [""] * len(asked), "answer": ["w5"] * len(asked)}
        pl.DataFrame(rows).write_parquet(folder / f"{name}.parquet")
        sources.append({"name": name, "files": [str(folder / f"{name}.parquet")], "weight": weight})
    out = folder / f"out{len(list(folder.glob('out*')))}"
    out.mkdir()
    data = DataConfig(sources=sources, template=TEMPLATE, split=split, duplicates=duplicates, ngram=3)
    prepare_shards(data, ModelConfig(path=write_tokenizer(folder / "model")), out)
    return out


def test_a_benchmark_is_compared_with_each_row_once_whatever_the_weights(tmp_path: Path) -> None:
    against = benchmark(tmp_path, "b", [SHARED, "w1 w20 w21 w22", "w99 w98 w97 w96"])
    found: list[dict[str, Any]] = []
    for weights in ((1.0, 1.0), (3.0, 2.0)):
        shards = prepared(tmp_path, weights, {"validation": 0.0, "test": 0.0})
        ids = [row["example_id"] for row in read(shards, "train")]
        assert (max(ids) > COPY) == (weights[0] > 1) and len({number % COPY for number in ids}) == 26
        out = tmp_path / f"audit{weights[0]}"
        out.mkdir()
        audit_contamination(shards, against, 3, no_text, out)
        questions = pl.read_parquet(out / "questions.parquet").to_dicts()
        found.append(json.loads((out / "contamination.json").read_text()) | {"questions": questions})
    plain, weighted = found
    assert weighted == plain and plain["train_rows"] == 26
    assert plain["exact"] == {"train_rows": 2, "benchmark_rows": 1}, "the question of both sources, in each"
    assert [pair["train"] for pair in plain["exact_pairs"]] == [0, 4]
    assert sorted(pair["train"] for pair in plain["overlap_pairs"]) == [0, 1, 4, 5]


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_what_training_shares_with_held_out_rows_does_not_depend_on_weights(tmp_path: Path, duplicates: str) -> None:
    split = {"validation": 0.0, "test": 0.4}
    plain, weighted = (
        json.loads((prepared(tmp_path, weights, split, duplicates) / "audit.json").read_text())
        for weights in ((1.0, 1.0), (3.0, 2.0))
    )
    assert plain["contamination"]["train_rows"] > 0
    assert weighted == plain
