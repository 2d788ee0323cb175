"""Read columns of the user's files as text: first all files are checked, then rows come in bounded batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamtune.errors import UserError
from dreamtune.inputs.cells import BATCH_BYTES, MOST_ROWS, Texts
from dreamtune.inputs.kinds import kind_of
from dreamtune.inputs.parquet_rows import read_parquet, survey_parquet
from dreamtune.inputs.text_rows import read_text, survey_text


@dataclass(frozen=True)
class Rows:
    """The rows of several files, numbered from 0 through all files; made by `open_rows`.

    Attributes:
        files: the files, in order.
        counts: number of rows of each file.
        batch_rows: most rows that are read at a time.
        nested: columns that may hold lists, which are read as JSON text.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    batch_rows: int
    nested: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows in all files together."""
        return sum(self.counts)

    def texts_at(self, column: str, rows: Iterable[int]) -> dict[int, str]:
        """Return the texts of a few rows of `column` by row number, "" for null; reads up to the last of these rows."""
        return self.read_at([column], lambda batch: batch[column], rows)

    def read_at(
        self, columns: list[str], texts_of: Callable[[dict[str, Texts]], Texts], wanted: Iterable[int]
    ) -> dict[int, str]:
        """Return a few of the texts that `texts_of` makes of each batch of `columns`, by number; "" for null.

        Reads up to the last of them.
        """
        left, found, start = sorted(set(wanted), reverse=True), dict[int, str](), 0
        for batch in self.batches(columns) if left else ():
            texts = texts_of(batch)
            while left and left[-1] < start + len(texts):
                number = left.pop()
                found[number] = texts[number - start] or ""
            if not left:
                break
            start += len(texts)
        return found

    def batches(self, columns: list[str], among: range | None = None) -> Iterator[dict[str, Texts]]:
        """Yield the rows in order, as batches {column: texts}; null is None, numbers are text.

        Args:
            columns: names of the columns to read.
            among: yield only the batches whose first row is in this range; None yields all. Other files stay unread.

        Raises:
            UserError: a file cannot be read, or a cell is no text or too long; the message names row and column.
        """
        among = range(self.rows) if among is None else among
        end = 0
        for path, count in zip(self.files, self.counts, strict=True):
            row, end = end, end + count
            if end <= among.start or row >= among.stop:
                continue
            read = read_parquet if kind_of(path) == "parquet" else read_text
            here = range(max(0, among.start - row), min(count, among.stop - row))
            yield from read(path, columns, self.batch_rows, here, self.nested)


def open_rows(files: list[Path], columns: list[str], batch_rows: int, nested: Sequence[str] = ()) -> Rows:
    """Check that every file is parquet, CSV or JSON lines and has `columns` of text or numbers; return its rows.

    Args:
        batch_rows: most rows read at a time; long rows make it fewer.
        nested: columns that may hold lists, too; these are read as JSON text.

    Raises:
        UserError: a file is empty or of another kind, a column is missing or of another type, there are no rows at
            all, or more than `cells.MOST_ROWS`.
    """
    counts, row_bytes = [], 1.0
    for path in files:
        survey = survey_parquet if kind_of(path) == "parquet" else survey_text
        count, mean = survey(path, columns, nested)
        counts.append(count)
        row_bytes = max(row_bytes, mean)
    if not sum(counts):
        raise UserError(f"no rows in {', '.join(map(str, files[:3]))}{' …' if len(files) > 3 else ''}")
    check_total(sum(counts), files[0])
    return Rows(tuple(files), tuple(counts), max(1, min(batch_rows, int(BATCH_BYTES / row_bytes))), tuple(nested))


def check_total(count: int, first: Path) -> None:
    """Raise a UserError if there are more rows (`count`, in all files; the first is named) than can be read."""
    if count > MOST_ROWS:
        raise UserError(f"{count:,} rows in {first} and on; at most {MOST_ROWS:,} can be read, so name fewer")
