"""Work that is done ahead, on a thread, while the GPU is busy with what was asked for before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """`ahead[n]` is `make(n)`, and starts making the next few; to be asked in ascending order."""

    def __init__(self, make: Callable[[int], Made], last: int, depth: int = 2) -> None:
        self._make, self._last, self._depth = make, last, depth
        self._under_way: dict[int, Future[Made]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def __getitem__(self, number: int) -> Made:
        for wanted in range(number, min(number + self._depth, self._last) + 1):
            if wanted not in self._under_way:
                self._under_way[wanted] = self._pool.submit(self._make, wanted)
        return self._under_way.pop(number).result()

    def __enter__(self) -> "Ahead[Made]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
