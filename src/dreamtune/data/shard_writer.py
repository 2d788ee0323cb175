"""Writing a split as Arrow stream files, the format in which `datasets` keeps and memory-maps its tables."""

from pathlib import Path

import pyarrow as pa

from dreamtune.formats.shards import SHARD


class ShardWriter:
    """Appends tables to `folder/SPLIT/SPLIT-00000.arrow` and opens the next file every `rows_per_shard` rows."""

    def __init__(self, folder: Path, split: str, rows_per_shard: int) -> None:
        self.folder, self.split, self.rows_per_shard = folder, split, rows_per_shard
        self.files: list[str] = []
        self.rows, self.tokens = 0, 0
        self.stream: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append `table` (of `formats.shards.SHARD`), across as many files as its rows need."""
        while table.num_rows:
            room = self.rows_per_shard - self.rows % self.rows_per_shard
            if self.stream is None or room == self.rows_per_shard:
                self._next_file()
            part, table = table.slice(0, room), table.slice(room)
            assert self.stream is not None
            self.stream.write_table(part)
            self.rows += part.num_rows
            self.tokens += pa.compute.sum(pa.compute.list_value_length(part["input_ids"])).as_py()

    def close(self) -> dict[str, object]:
        """Finish the last file and return what shards.json says of the split."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        return {"rows": self.rows, "tokens": self.tokens, "files": self.files}

    def _next_file(self) -> None:
        self.close()
        name = f"{self.split}/{self.split}-{len(self.files):05d}.arrow"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        self.stream = pa.ipc.new_stream(str(path), SHARD)
        self.files.append(name)
