"""Progress with an estimate of the time left: a live bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")
LINE_EVERY_S = 5.0


class Progress:
    """Context manager that shows on stderr how many of `total` units of work are done, and the time left.

    A note, such as the last loss, is shown beside the count. `done` units were done before, by a run that this one
    resumes: the estimate leaves them out.

    >>> with Progress("train", total=375) as progress:
    ...     progress.advance(note="loss 0.7")
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.start_done, self.start, self.last_line = done, time.monotonic(), 0.0
        self.bar: RichProgress | None = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = RichProgress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True)
            )
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done; update the bar, or print a line if one is due or all is done."""
        self.done += units
        if self.bar:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self.last_line >= LINE_EVERY_S or self.done >= self.total:
            self.last_line = now
            rate = (self.done - self.start_done) / max(now - self.start, 1e-9)
            left = (self.total - self.done) / rate if rate else 0.0
            print(
                f"{self.label} {self.done}/{self.total}, {left:.0f} s left {note}".rstrip(), file=sys.stderr, flush=True
            )


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield `items`, counting one unit after each."""
    with Progress(label, total) as progress:
        for item in items:
            yield item
            progress.advance()
