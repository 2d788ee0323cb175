"""Work that is done ahead, on a thread, while the GPU is busy with what was asked for before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """`ahead[n]` is `make(n)`, made on a thread since `start(n)` where that was called before."""

    def __init__(self, make: Callable[[int], Made], last: int) -> None:
        self._make, self._last = make, last
        self._under_way: dict[int, Future[Made]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def start(self, number: int) -> None:
        """Begin with `number`, if there is such a one; best when this thread is about to wait for something else."""
        if number <= self._last and number not in self._under_way:
            self._under_way[number] = self._pool.submit(self._make, number)

    def __getitem__(self, number: int) -> Made:
        self.start(number)
        return self._under_way.pop(number).result()

    def __enter__(self) -> "Ahead[Made]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
