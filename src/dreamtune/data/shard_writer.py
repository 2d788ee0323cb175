"""Write the rows of `prepare_shards`, in files whose bytes do not depend on how many rows were tokenised at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamtune.formats.shards import SHARD

RECORD_ROWS = 1_000  # rows of a record batch in a shard
GROUP_ROWS = 50_000  # rows of a row group in a parquet file of numbers


class Regrouped:
    """Rows that wait until there are enough of them: they come in tables of any size, and go in tables of one size."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append a table."""
        self.tables.append(table)
        self.rows += table.num_rows

    def take(self, rows: int) -> pa.Table:
        """Remove and return the first `rows` rows, as a table of one chunk.

        They are copied: a slice of packed booleans would be written with the bits behind it.
        """
        table = pa.concat_tables(self.tables).combine_chunks()
        self.tables = [table.slice(rows)]
        self.rows -= rows
        return table.take(pa.array(range(rows), pa.int64()))


class ShardWriter:
    """Writer of one split in Arrow's stream format, which `datasets` memory-maps.

    Files are FOLDER/SPLIT/SPLIT-00000.arrow and so on, each with `rows_per_shard` rows but the last.
    """

    def __init__(self, folder: Path, split: str, rows_per_shard: int) -> None:
        self.folder, self.split, self.rows_per_shard = folder, split, rows_per_shard
        self.files: list[str] = []
        self.rows, self.tokens = 0, 0
        self.waiting = Regrouped()
        self.stream: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append a table that has the columns `formats.shards.SHARD`; its rows may go to several files."""
        self.waiting.add(table)
        while self.waiting.rows >= (size := min(RECORD_ROWS, self._room())):
            self._write(self.waiting.take(size))

    def close(self) -> dict[str, object]:
        """Write the waiting rows, finish the last file, and return the split's entry in shards.json."""
        if self.waiting.rows:
            self._write(self.waiting.take(self.waiting.rows))
        self._finish_file()
        return {"rows": self.rows, "tokens": self.tokens, "files": self.files}

    def _room(self) -> int:
        """Return how many rows the current file still takes; a whole file's, if it is full or there is none."""
        return self.rows_per_shard - self.rows % self.rows_per_shard

    def _write(self, rows: pa.Table) -> None:
        if self.stream is None or self._room() == self.rows_per_shard:
            self._next_file()
        assert self.stream is not None
        self.stream.write_table(rows)
        self.rows += rows.num_rows
        self.tokens += pa.compute.sum(pa.compute.list_value_length(rows["input_ids"])).as_py()

    def _next_file(self) -> None:
        self._finish_file()
        name = f"{self.split}/{self.split}-{len(self.files):05d}.arrow"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        self.stream = pa.ipc.new_stream(str(path), SHARD)
        self.files.append(name)

    def _finish_file(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class LengthsWriter:
    """Writer of a parquet file in row groups of `GROUP_ROWS` rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.file, self.waiting = pq.ParquetWriter(path, schema), Regrouped()

    def write(self, table: pa.Table) -> None:
        """Append a table."""
        self.waiting.add(table)
        while self.waiting.rows >= GROUP_ROWS:
            self.file.write_table(self.waiting.take(GROUP_ROWS))

    def close(self) -> None:
        """Write the waiting rows and finish the file."""
        if self.waiting.rows:
            self.file.write_table(self.waiting.take(self.waiting.rows))
        self.file.close()
