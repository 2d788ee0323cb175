"""Peak resident memory of prepare_shards, audit on, as the number of rows grows.

    python benchmarks/prepare_memory.py --data gsm8k_train.parquet --tokenizer FOLDER

Makes one parquet file of --rows rows and one of a quarter of them by repeating --data with a serial number in each
question (so that no question repeats), prepares both in processes of their own, and prints one line each. Fails if
the larger one peaks above --limit-gib, or if the growth per further row exceeds --limit-row bytes: room for a digest
per row, not for the row.

With --sources the rows lie in three files, which are three sources of weights 2, 0.5 and 1: the first is repeated, the
second drawn from, and of the third `where` and `rows` take a part. Fails, too, if the counts do not add up.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import polars as pl

COLUMNS = ("question", "reasoning", "answer")
SHARES = {"repeated": 1 / 2, "part": 1 / 3, "drawn": 1 / 6}  # of the rows, by source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="parquet file whose rows are repeated")
    columns = ["question", "gemini_thinking_trajectory", "solution"]
    parser.add_argument("--columns", nargs=3, default=columns, help="of question, reasoning and answer")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the larger file")
    parser.add_argument("--row-group", type=int, default=None, help="rows of one row group; default: all in one")
    parser.add_argument("--limit-gib", type=float, default=1.5, help="most memory at the peak")
    parser.add_argument("--limit-row", type=float, default=128.0, help="bytes of growth per further row")
    parser.add_argument("--sources", action="store_true", help="three weighted sources in place of one file")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return prepare(arguments.child, arguments.tokenizer, arguments.sources)
    peaks = {rows: measure(arguments, rows) for rows in (arguments.rows // 4, arguments.rows)}
    small, large = peaks
    growth = (peaks[large] - peaks[small]) / (large - small)
    print(f"growth: {growth:.0f} bytes per row (limit {arguments.limit_row:.0f})")
    if peaks[large] > arguments.limit_gib * 2**30 or growth > arguments.limit_row:
        sys.exit("FAILED: memory grows with the file")


def measure(arguments: argparse.Namespace, rows: int) -> int:
    """Return the peak resident bytes of a process that prepares `rows` rows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        write_rows(arguments.data, arguments.columns, rows, file, arguments.row_group or rows)
        if arguments.sources:
            split_in_three(file)
        size, started = file.stat().st_size, time.perf_counter()
        command = [sys.executable, __file__, "--tokenizer", arguments.tokenizer, "--child", str(file)]
        command += ["--sources"] if arguments.sources else []
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        seconds = time.perf_counter() - started
    assert result["rows"] == rows, f"{result['rows']} rows were counted, {rows} were written"
    print(
        f"{rows:>9,} rows, {size / 2**20:.0f} MiB of parquet: peak {result['peak'] / 2**30:.3f} GiB resident, "
        f"{seconds:.0f} s, {rows / seconds:,.0f} rows/s",
        flush=True,
    )
    peak: int = result["peak"]
    return peak


def write_rows(source: Path, columns: list[str], rows: int, file: Path, row_group: int) -> None:
    """Repeat `source` up to `rows` rows and number the questions."""
    table = pl.read_parquet(source, columns=columns).rename(dict(zip(columns, COLUMNS, strict=True)))
    repeated = pl.concat([table] * (rows // table.height + 1)).head(rows).with_row_index("serial")
    numbered = pl.format("No. {}: {}", pl.col("serial"), pl.col("question")).alias("question")
    repeated.with_columns(numbered).drop("serial").write_parquet(file, row_group_size=row_group)


def split_in_three(file: Path) -> None:
    """Write the rows of `file`, numbered, to three files of a half, a third and a sixth of them beside it."""
    table = pl.read_parquet(file).with_row_index("number")
    start = 0
    for name, share in SHARES.items():
        count = round(share * table.height) if name != "drawn" else table.height
        table.slice(start, count).write_parquet(file.with_name(f"{name}.parquet"))
        start += count


def three_sources(file: Path, rows: int) -> list[dict[str, Any]]:
    """Return the settings of the three sources that `split_in_three` wrote."""
    settings = {"repeated": {"weight": 2.0}, "part": {"where": "number % 5 > 0", "rows": rows // 6}}
    return [
        {"name": name, "files": [str(file.with_name(f"{name}.parquet"))]} | settings.get(name, {"weight": 0.5})
        for name in SHARES
    ]


def check_counts(meta: dict[str, Any], rows: int) -> None:
    """Print what became of each source, and stop unless every row is accounted for."""
    for source in meta["sources"]:
        print(json.dumps(source), file=sys.stderr)
        assert sum(source["splits"].values()) + sum(source["dropped"].values()) == source["documents"] == source["rows"]
    assert sum(source["rows"] for source in meta["sources"]) == meta["source_rows"] == rows
    for split, written in meta["splits"].items():
        copies = sum(source["copies"] for source in meta["sources"]) if split == "train" else 0
        assert written["rows"] == copies + sum(source["splits"][split] for source in meta["sources"]), split


def prepare(file: Path, tokenizer: str, sources: bool) -> None:
    """Prepare `file` and print rows and peak; runs in a process of its own."""
    import resource

    from dreamtune.data.prepare import prepare_shards
    from dreamtune.settings.data import DataConfig
    from dreamtune.settings.model import ModelConfig

    with tempfile.TemporaryDirectory() as out:
        rows = pl.scan_parquet(file).select(pl.len()).collect().item()
        data = DataConfig(sources=three_sources(file, rows)) if sources else DataConfig(files=[str(file)])
        counts = prepare_shards(data, ModelConfig(path=tokenizer), Path(out))
        assert (Path(out) / "audit.json").exists()
        if sources:
            check_counts(json.loads((Path(out) / "shards.json").read_text(encoding="utf-8")), rows)
    # The kernel's high-water mark of this program; ru_maxrss would inherit the parent's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps({"rows": counts["source_rows"], "peak": own + children}))


if __name__ == "__main__":
    main()
