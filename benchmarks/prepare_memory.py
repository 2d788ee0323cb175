"""Peak resident memory of prepare_shards, audit on, as the number of rows grows.

    python benchmarks/prepare_memory.py --data gsm8k_train.parquet --tokenizer FOLDER

Makes one parquet file of --rows rows and one of a quarter of them by repeating --data with a serial number in each
question (so that no question repeats), prepares both in processes of their own, and prints one line each. Fails if
the larger one peaks above --limit-gib, or if the growth per further row exceeds --limit-row bytes: room for a digest
per row, not for the row.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _src  # noqa: F401, puts src on the path
import polars as pl

COLUMNS = ("question", "reasoning", "answer")


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
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return prepare(arguments.child, arguments.tokenizer)
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
        size, started = file.stat().st_size, time.perf_counter()
        command = [sys.executable, __file__, "--tokenizer", arguments.tokenizer, "--child", str(file)]
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


def prepare(file: Path, tokenizer: str) -> None:
    """Prepare `file` and print rows and peak; runs in a process of its own."""
    import resource

    from dreamtune.data.prepare import prepare_shards
    from dreamtune.settings.data import DataConfig
    from dreamtune.settings.model import ModelConfig

    with tempfile.TemporaryDirectory() as out:
        counts = prepare_shards(DataConfig(files=[str(file)]), ModelConfig(path=tokenizer), Path(out))
        assert (Path(out) / "audit.json").exists()
    # The kernel's high-water mark of this program; ru_maxrss would inherit the parent's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps({"rows": counts["source_rows"], "peak": own + children}))


if __name__ == "__main__":
    main()
