"""Prefetching: the next window is made on a thread while the GPU is busy with the current one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Prefetcher(Generic[Made]):
    """Gives `make(n)` for `prefetcher[n]`, computed on a thread since `start(n)`, where this was called before.

    Each item is given once; asked for again, it is made again.

    Args:
        make: runs on one background thread, one call at a time.
        last: the largest number that `start` begins with.

    >>> with Prefetcher(lambda step: f"window {step}", last=3) as windows:
    ...     windows.start(2)  # goes on while this thread does something else
    ...     windows.start(4)  # beyond the last: ignored
    ...     windows[1], windows[2]
    ('window 1', 'window 2')
    """

    def __init__(self, make: Callable[[int], Made], last: int) -> None:
        self._make, self._last = make, last
        self._under_way: dict[int, Future[Made]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def start(self, number: int) -> None:
        """Begin to make item `number`, unless it lies beyond the last one or is under way already.

        The best moment is when the calling thread is about to wait for the GPU.
        """
        if number <= self._last and number not in self._under_way:
            self._under_way[number] = self._pool.submit(self._make, number)

    def __getitem__(self, number: int) -> Made:
        self.start(number)
        return self._under_way.pop(number).result()

    def __enter__(self) -> "Prefetcher[Made]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
