"""Three-row parquet files and a word-level tokenizer for the tests of the data stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, pre_tokenizers

from dreamtune.data.prepare import prepare_shards
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split

MASK, END, BEGINNING = 1, 2, 3
SPECIAL = {"[UNK]": 0, "[MASK]": MASK, "[END]": END, "[BEGIN]": BEGINNING}
TEMPLATE = "Q {question} R {reasoning} A {answer}"
# One word is one token, and w5 is token 5.
VOCABULARY = SPECIAL | {f"w{i}": i for i in range(4, 100)} | {"Q": 100, "R": 101, "A": 102}


def write_tokenizer(folder: Path) -> str:
    """Write a tokenizer of one token per word into `folder`."""
    folder.mkdir(exist_ok=True)
    backend = tokenizers.Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIAL))
    backend.save(str(folder / "tokenizer.json"))
    names = {"mask_token": "[MASK]", "eos_token": "[END]", "bos_token": "[BEGIN]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return str(folder)


def write_model(folder: Path, rows: int = len(VOCABULARY), **config: object) -> str:
    """Write that tokenizer and what passes for a model as long as nobody loads it: embeddings of `rows` rows."""
    write_tokenizer(folder)
    fields = {"model_type": "Dream", "vocab_size": rows, "hidden_size": 2}
    (folder / "config.json").write_text(json.dumps(fields | config))
    save_file({"model.embed_tokens.weight": np.zeros((rows, 2), np.float32)}, folder / "model.safetensors")
    return str(folder)


def write_inputs(folder: Path) -> None:
    """Write what a plan needs: one row, `rows.parquet`, and what passes for a model, `model`."""
    write_model(folder / "model")
    pl.DataFrame({"question": ["one"], "reasoning": [""], "answer": ["1"]}).write_parquet(folder / "rows.parquet")


def prepare(folder: Path, rows: dict[str, list[Any]], **settings: Any) -> tuple[Path, dict[str, Any]]:
    """Prepare `rows` (question, reasoning, answer) in `folder`; return the shards' folder and the counts."""
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    out = folder / f"out{len(list(folder.glob('out*')))}"
    out.mkdir()
    split = settings.pop("split", {"validation": 0.0, "test": 0.0})
    benchmarks, canvases = settings.pop("benchmarks", ()), settings.pop("canvases", None)
    data = DataConfig(files=[str(folder / "rows.parquet")], split=split, **({"template": TEMPLATE} | settings))
    model = ModelConfig(path=write_tokenizer(folder / "model"))
    counts = prepare_shards(data, model, out, benchmarks, canvases=canvases)
    return out, counts


def read(out: Path, split: str = "train") -> list[dict[str, Any]]:
    """Return the split's rows as dictionaries."""
    return list(read_split(out, split))


def splits_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every split's rows, an empty list for an empty split."""
    return {name: read(out, name) if split["rows"] else [] for name, split in read_meta(out)["splits"].items()}
