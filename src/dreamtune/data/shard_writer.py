"""Writing a split as files in Arrow's stream format, which `datasets` memory-maps."""

from pathlib import Path

import pyarrow as pa

from dreamtune.formats.shards import SHARD


class ShardWriter:
    """Writer of one split: FOLDER/SPLIT/SPLIT-00000.arrow and so on, each with `rows_per_shard` rows but the last."""

    def __init__(self, folder: Path, split: str, rows_per_shard: int) -> None:
        self.folder, self.split, self.rows_per_shard = folder, split, rows_per_shard
        self.files: list[str] = []
        self.rows, self.tokens = 0, 0
        self.stream: pa.ipc.RecordBatchStreamWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append a table that has the columns `formats.shards.SHARD`; its rows may go to several files."""
        while table.num_rows:
            room = self.rows_per_shard - self.rows % self.rows_per_shard
            if self.stream is None or room == self.rows_per_shard:
                self._next_file()
            head, table = table.slice(0, room), table.slice(room)
            assert self.stream is not None
            self.stream.write_table(head)
            self.rows += head.num_rows
            self.tokens += pa.compute.sum(pa.compute.list_value_length(head["input_ids"])).as_py()

    def close(self) -> dict[str, object]:
        """Finish the last file and return the split's entry in shards.json: rows, tokens, files."""
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
