"""The figures real rows are known for: what the notebook lost of s1K, and what our default keeps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import SHARED, needs_shared
from dreamtune.data.prepare import prepare_shards
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from rows import splits_of


def real(tmp_path: Path, file: str, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out = tmp_path / "out"
    out.mkdir()
    data = DataConfig(files=[str(SHARED / "data" / file)], **settings)
    return out, prepare_shards(data, ModelConfig(path=str(SHARED / "tokenizer" / "dream")), out)


@needs_shared
def test_the_notebooks_settings_lose_95_of_101_answers(tmp_path: Path) -> None:
    columns = {"question": "question", "reasoning": "gemini_thinking_trajectory", "answer": "solution"}
    out, counts = real(tmp_path, "s1k_101.parquet", columns=columns, max_tokens=1024, too_long="truncate")
    audit = json.loads((out / "audit.json").read_text())
    assert {name: losses["answers_lost"] for name, losses in audit["policies"].items()} == {
        "shorten_reasoning": 11,
        "drop": 95,
        "truncate": 95,
    }
    rows = [row for split in splits_of(out).values() for row in split]
    assert len(rows) == 101 and sum(not row["complete"] for row in rows) == 95
    assert any("95 of 101 rows lose their answer" in warning for warning in counts["warnings"])
    # The notebook had no beginning token and tokenised a row in one piece, which joins two tokens at each of two seams.
    assert audit["tokens"]["tokens"]["median"] == pytest.approx(4425, abs=3)
    assert audit["tokens"]["tokens"]["max"] == pytest.approx(8178, abs=3)


@needs_shared
def test_the_notebooks_row_lengths_are_reproduced() -> None:
    template = DataConfig(files=["x"]).template
    rows = pl.read_parquet(SHARED / "data" / "s1k_101.parquet")
    names = ("question", "gemini_thinking_trajectory", "solution")
    texts = [template.format(question=q, reasoning=r, answer=a) for q, r, a in rows.select(names).iter_rows()]
    lengths = [len(ids) + 1 for ids in load_tokenizer(str(SHARED / "tokenizer" / "dream")).encode_batch(texts)]
    assert np.median(lengths) == 4425 and max(lengths) == 8178


@needs_shared
def test_19_of_s1ks_1000_answers_do_not_fit_beside_their_question(tmp_path: Path) -> None:
    # Shortening the reasoning to nothing leaves question, introduction and answer: what the file without reasoning has.
    template = DataConfig(files=["x"]).template.replace("{reasoning}", "")
    columns = {"question": "question", "reasoning": None, "answer": "solution"}
    _, counts = real(tmp_path, "s1k_questions_1000.parquet", columns=columns, template=template)
    assert counts["dropped"] == {"answer_does_not_fit": 19} and sum(counts["rows"].values()) == 981
