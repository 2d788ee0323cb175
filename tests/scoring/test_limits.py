"""A limit counts the CPU time of its thread; a pair that runs out of it twice has no grade, and none is remembered."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from dreamtune.scoring import equivalence as grading
from dreamtune.scoring.equivalence import equivalent
from dreamtune.scoring.limits import OutOfTime, time_limit


def spin(seconds: float = 60.0) -> None:
    """Use `seconds` of this thread's CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_waiting_costs_nothing() -> None:
    with time_limit(0.05):
        time.sleep(0.3)


def test_the_work_of_other_threads_costs_nothing() -> None:
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            spin(0.01)

    neighbour = threading.Thread(target=work)
    neighbour.start()
    try:
        before = time.process_time()
        with time_limit(0.4):
            spin(0.3)
        assert time.process_time() - before > 0.45  # so a limit of the process's CPU time would have been used up
        with pytest.raises(OutOfTime), time_limit(0.05):
            spin()
    finally:
        done.set()
        neighbour.join()


def test_a_loop_ends_after_its_cpu_time() -> None:
    before = time.thread_time()
    with pytest.raises(OutOfTime), time_limit(0.1):
        try:
            spin()
        except Exception:  # as SymPy does
            pytest.fail("the limit was swallowed")
    assert 0.1 <= time.thread_time() - before < 0.3


def test_an_exception_that_is_swallowed_comes_again() -> None:
    before = time.thread_time()
    with pytest.raises(OutOfTime), time_limit(0.05):
        with suppress(BaseException):
            spin()
        spin()
    assert time.thread_time() - before < 0.5
    with pytest.raises(OutOfTime), time_limit(0.05), suppress(BaseException):  # at the latest where the block ends
        spin()


def test_an_outer_limit_goes_on_and_nothing_is_left_behind() -> None:
    handler, before = signal.getsignal(signal.SIGPROF), time.thread_time()
    with pytest.raises(OutOfTime), time_limit(0.2):
        with pytest.raises(OutOfTime), time_limit(0.05):
            spin()
        assert 0.05 <= time.thread_time() - before < 0.2
        spin()
    assert 0.2 <= time.thread_time() - before < 0.4
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0) and signal.getsignal(signal.SIGPROF) == handler
    spin(0.1)


class Tries:
    """Stands in for `time_limit`: notes each limit, and runs out of time while `failing` is above 0."""

    def __init__(self, failing: int) -> None:
        self.failing, self.limits, self.inside = failing, list[float](), False

    @contextmanager
    def __call__(self, seconds: float) -> Iterator[None]:
        self.limits.append(seconds)
        self.failing -= 1
        if self.failing >= 0:
            raise OutOfTime
        self.inside = True
        try:
            yield
        finally:
            self.inside = False


def test_a_second_try_has_ten_times_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    grading.warm_parser()
    for failing, found in ((1, True), (2, None), (0, True)):
        tries = Tries(failing)
        monkeypatch.setattr(grading, "time_limit", tries)
        pair = f"x+{failing}+y", f"y+x+{failing}"
        assert equivalent(*pair, 0.5) is found
        assert tries.limits == [0.5, 5.0][: 1 + min(failing, 1)]
        tries.limits.clear()
        assert equivalent(*pair, 0.5) is True
        assert tries.limits == ([] if found else [0.5])  # only a grade is remembered


def test_what_never_ends_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "mathematically_equal", lambda *_: spin())
    grading.warm_parser.cache_clear()
    monkeypatch.setattr(grading, "WARMING", ())
    before = time.thread_time()
    assert equivalent("x+y+7", "7+x+y", 0.02) is None
    assert 0.22 <= time.thread_time() - before < 1.5  # a third try of ten times as long would add two seconds
    grading.warm_parser.cache_clear()


def test_the_parser_is_warmed_once_and_outside_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, seen = Tries(0), list[tuple[str, str, bool]]()

    def compare(given: str, expected: str) -> bool:
        seen.append((given, expected, tries.inside))
        return True

    monkeypatch.setattr(grading, "time_limit", tries)
    monkeypatch.setattr(grading, "mathematically_equal", compare)
    grading.warm_parser.cache_clear()
    try:
        assert not equivalent("5", "6") and not seen  # numbers need no parser
        for pair in (("x+y+8", "8+x+y"), ("x+y+9", "9+x+y")):
            assert equivalent(*pair)
    finally:
        grading.warm_parser.cache_clear()
    warming = [(*pair, False) for pair in grading.WARMING]
    assert warming and seen == [*warming, ("x+y+8", "8+x+y", True), ("x+y+9", "9+x+y", True)]
