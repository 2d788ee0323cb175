"""Our preparation of real rows against `datasets.map(batched=True)` with the same tokenizer, in one run.

    PYTHONPATH=src python benchmarks/tokenise_speed.py --data gsm8k_train.parquet --tokenizer FOLDER

All start from the parquet file and end with Arrow files of tokens on disk. `map` renders the template and encodes each
row's whole text, nothing more: once through the bare `tokenizers` library as ours does, once through transformers' fast
tokenizer as most scripts do, and with several processes. Ours also splits, audits, counts and fits every row. They take
turns --rounds times and the best of each counts. Fails if ours is slower than either `map` of one process.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import polars as pl
import pyarrow.compute as pc
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from dreamtune.prepare import prepare_shards
from dreamtune.settings.data import Columns, DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta
from dreamtune.tokenizer import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--columns", nargs=3, default=["question", "gemini_thinking_trajectory", "solution"])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rounds", type=int, default=3)
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
        bare = load_tokenizer(arguments.tokenizer).backend
        wrapped = PreTrainedTokenizerFast(tokenizer_object=bare)
        contenders: dict[str, Callable[[Path], int]] = {
            "prepare_shards": lambda out: ours(data, arguments.tokenizer, out),
            "datasets.map, tokenizers": lambda out: mapped(data, lambda texts: bare_ids(bare, texts), out),
            "datasets.map, transformers": lambda out: mapped(data, lambda texts: wrapped(texts)["input_ids"], out),
        }
        if arguments.processes:
            name = f"the first, num_proc={arguments.processes}"
            n = arguments.processes
            contenders[name] = lambda out: mapped(data, lambda texts: bare_ids(bare, texts), out, n)
        best = race(contenders, arguments.rounds)
    for name, (seconds, tokens) in best.items():
        ratio = seconds / best["prepare_shards"][0]
        print(f"{name:<28} {seconds:7.2f} s  {tokens / seconds / 1e6:6.2f} M tokens/s  ratio {ratio:.2f}")
    if min(best[name][0] for name in best if name.startswith("datasets.map")) < best["prepare_shards"][0]:
        sys.exit("FAILED: datasets.map is faster")


def race(contenders: dict[str, Callable[[Path], int]], rounds: int) -> dict[str, tuple[float, int]]:
    """Return each contender's best seconds and its tokens."""
    best: dict[str, tuple[float, int]] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            with tempfile.TemporaryDirectory() as out:
                started = time.perf_counter()
                tokens = run(Path(out))
                best[name] = min(best.get(name, (float("inf"), tokens)), (time.perf_counter() - started, tokens))
    return best


def ours(data: DataConfig, tokenizer: str, out: Path) -> int:
    prepare_shards(data, ModelConfig(path=tokenizer), out)
    return sum(split["tokens"] for split in read_meta(out)["splits"].values())


def bare_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def mapped(
    data: DataConfig, encode: Callable[[list[str]], list[list[int]]], out: Path, processes: int | None = None
) -> int:
    names = (data.columns.question, data.columns.reasoning or "", data.columns.answer)

    def tokens_of(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        rows = zip(*(batch[name] for name in names), strict=True)
        return {"input_ids": encode([data.template.format(question=q, reasoning=r, answer=a) for q, r, a in rows])}

    rows = datasets.Dataset.from_parquet(data.files, cache_dir=str(out / "cache"))
    assert isinstance(rows, datasets.Dataset)
    files = {"num_proc": processes, "cache_file_name": str(out / "tokens.arrow")}
    tokens = rows.map(tokens_of, batched=True, remove_columns=rows.column_names, load_from_cache_file=False, **files)
    return int(pc.sum(pc.list_value_length(tokens.data.column("input_ids"))).as_py())


if __name__ == "__main__":
    main()
