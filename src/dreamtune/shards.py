"""Reading the shards of `prepare_shards`: memory-mapped Arrow files and what describes them."""

import json
from pathlib import Path
from typing import Any

import datasets

from dreamtune.errors import UserError

META = "shards.json"
SPLITS = ("train", "validation", "test")


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of shards.json.

    Its keys: template, beginning_token, max_tokens, tokenizer (ids), splits, source_rows, dropped.

    Raises:
        UserError: `folder` is no finished output of prepare_shards.
    """
    path = Path(folder) / META
    if not path.exists():
        raise UserError(f"{folder} holds no {META}; it is not a finished output of prepare_shards")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def read_split(folder: Path, split: str) -> datasets.Dataset:
    """Return one split, its files memory-mapped and concatenated, in source order.

    Columns: example_id, input_ids, prompt_tokens, complete, question, answer (see `dreamtune.data.shard_writer`).

    Raises:
        UserError: the split does not exist or has no rows.
    """
    splits = read_meta(folder)["splits"]
    if split not in splits:
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    files = splits[split]["files"]
    if not files:
        raise UserError(f"the {split} split in {folder} has no rows; raise data.split.{split} or bring more data")
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(Path(folder) / file)) for file in files])
