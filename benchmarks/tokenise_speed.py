"""Our preparation of real rows against `datasets.map(batched=True)` with the same tokenizer, in one run.

    python benchmarks/tokenise_speed.py --data gsm8k_train.parquet --tokenizer FOLDER

All load the tokenizer, read the parquet file and end with Arrow files of tokens on disk:

- prepare_shards: everything, so also split, duplicates, contamination, lengths, audit
- map, same examples: tokenises prompt, reasoning and answer apart and joins them, as the examples need it
- map, whole text: one text per row, nothing else; bare `tokenizers`, with transformers' wrapper, with processes

They take turns --rounds times and the best of each counts, in seconds of wall clock and of all cores. Fails if ours is
slower than map making the same examples, or than map as most scripts call it, through transformers.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import datasets
import polars as pl
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerFast

from dreamtune.data.prepare import prepare_shards
from dreamtune.data.template import render_segments
from dreamtune.data.tokenizer import Tokenizer, load_tokenizer
from dreamtune.settings.data import Columns, DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta

OURS, SAME, WRAPPED = "prepare_shards", "map, same examples", "map, whole text, transformers"
Batch = dict[str, list[str]]
Map = Callable[[Batch], dict[str, list[Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet file")
    columns = ["question", "gemini_thinking_trajectory", "solution"]
    parser.add_argument("--columns", nargs=3, default=columns, help="of question, reasoning and answer")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the best counts")
    parser.add_argument("--repeat", type=int, default=5, help="write the rows so many times, for a steadier figure")
    parser.add_argument("--processes", type=int, default=2, help="also time map with num_proc; 0 leaves it out")
    arguments = parser.parse_args()
    question, reasoning, answer = arguments.columns
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        table = pl.read_parquet(arguments.data, columns=arguments.columns)
        pl.concat([table] * arguments.repeat).write_parquet(file)
        columns = Columns(question=question, reasoning=reasoning, answer=answer)
        data = DataConfig(files=[str(file)], columns=columns, max_tokens=10**6)
        folder_of_tokenizer, out_of = arguments.tokenizer, arguments.processes
        contenders: dict[str, Callable[[Path], int]] = {
            OURS: lambda out: ours(data, folder_of_tokenizer, out),
            SAME: lambda out: mapped(data, same_examples(data, folder_of_tokenizer), out),
            "map, whole text": lambda out: mapped(data, whole_texts(data, folder_of_tokenizer), out),
            WRAPPED: lambda out: mapped(data, wrapped(data, folder_of_tokenizer), out),
        }
        if out_of:
            name = f"map, whole text, num_proc={out_of}"
            contenders[name] = lambda out: mapped(data, whole_texts(data, folder_of_tokenizer), out, out_of)
        best = race(contenders, arguments.rounds)
    for name, (wall, cores, tokens) in best.items():
        rate, ratio = tokens / wall / 1e6, wall / best[OURS][0]
        print(f"{name:<32} {wall:6.2f} s, {cores:6.2f} s of cores, {rate:5.2f} M tokens/s, ratio {ratio:.2f}")
    faster = [name for name in (SAME, WRAPPED) if best[name][0] < best[OURS][0]]
    if faster:
        sys.exit(f"FAILED: faster than prepare_shards: {', '.join(faster)}")


def race(contenders: dict[str, Callable[[Path], int]], rounds: int) -> dict[str, tuple[float, float, int]]:
    """Return each contender's best wall seconds, the core seconds of that round, and its tokens."""
    best: dict[str, tuple[float, float, int]] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            with tempfile.TemporaryDirectory() as out:
                started, before = time.perf_counter(), os.times()
                tokens = run(Path(out))
                wall, after = time.perf_counter() - started, os.times()
                taken = (wall, sum(after[:4]) - sum(before[:4]), tokens)
                best[name] = min(best.get(name, taken), taken)
    return best


def ours(data: DataConfig, tokenizer: str, out: Path) -> int:
    prepare_shards(data, ModelConfig(path=tokenizer), out)
    return sum(split["tokens"] for split in read_meta(out)["splits"].values())


def same_examples(data: DataConfig, folder: str) -> Map:
    tokenizer = load_tokenizer(folder)
    start, end = [tokenizer.beginning_id], [tokenizer.end_id]

    def tokens_of(batch: Batch) -> dict[str, list[Any]]:
        q, r, a = (batch[name] for name in data.columns_read)
        n, ids = len(q), ids_of(tokenizer, render_segments(data.template, q, r, a))
        prompts = [start + prompt for prompt in ids[:n]]
        examples = [p + r + a + end for p, r, a in zip(prompts, ids[n : 2 * n], ids[2 * n :], strict=True)]
        return {"input_ids": examples, "prompt_tokens": list(map(len, prompts)), "question": q, "answer": a}

    return tokens_of


def whole_texts(data: DataConfig, folder: str) -> Map:
    tokenizer = load_tokenizer(folder)
    return lambda batch: {"input_ids": ids_of(tokenizer, texts_of(data, batch))}


def wrapped(data: DataConfig, folder: str) -> Map:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=load_tokenizer(folder).backend)
    return lambda batch: {"input_ids": tokenizer(texts_of(data, batch))["input_ids"]}


def texts_of(data: DataConfig, batch: Batch) -> list[str]:
    rows = zip(*(batch[name] for name in data.columns_read), strict=True)
    return [data.template.format(question=q, reasoning=r, answer=a) for q, r, a in rows]


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)]


def mapped(data: DataConfig, tokens_of: Map, out: Path, processes: int | None = None) -> int:
    rows = datasets.Dataset.from_parquet(data.files, cache_dir=str(out / "cache"))
    assert isinstance(rows, datasets.Dataset)
    files = {"num_proc": processes, "cache_file_name": str(out / "tokens.arrow")}
    tokens = rows.map(tokens_of, batched=True, remove_columns=rows.column_names, load_from_cache_file=False, **files)
    return int(pc.sum(pc.list_value_length(tokens.data.column("input_ids"))).as_py())


if __name__ == "__main__":
    main()
