r"""Two guards that keep hostile formulas cheap: a limit of CPU time, and a check of a formula before SymPy sees it.

The limit counts the CPU time of the grading thread and never the wall clock, so that a grade does not depend on what
else the machine is doing. Python cannot interrupt one huge integer power or factorial, so a timer alone is not enough:
a formula that might compute something astronomically large is refused before it is parsed.
"""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import FrameType

MAX_DEPTH = 20  # of nested parentheses and braces: the parser's time grows steeply with it
MAX_CARETS = 12
MAX_EXPONENT = 10_000
AGAIN_S = 0.05  # an exception that falls into a destructor or a callback is lost: raise it again
SHORTEST_S = 1e-3  # a timer of 0 seconds is no timer
NOISE = re.compile(r"\\left|\\right|\\[,;:! ]|\s|(?<=\d),(?=\d)")
# An exponent: a group of two levels at most (deeper ones are refused), or one token.
EXPONENT = re.compile(r"\^(?:\{((?:[^{}]|\{[^{}]*\})*)\}|\(((?:[^()]|\([^()]*\))*)\)|([-+]?[\d.]+|[^{(]))")
WHOLE = re.compile(r"(\d+)(?:\.\d*)?")
POWER_OF_POWER = re.compile(r"\^[-+]?\w[\d.]*\^|![)\]}]*\^")
GROUP_POWER = re.compile(r"[)\]}]\^")
COSTLY = re.compile(r"[\d.]e[-+]?\d{4,}|\d{5,}!|!!|[)\]}]!|(?:binom|choose)[^=]*\d{5}|\d{5}[^=]*choose", re.IGNORECASE)


class OutOfTime(BaseException):
    """A computation has used up its CPU time. Passes the `except Exception` clauses of SymPy and math-verify."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime once the block has used `seconds` of its thread's CPU time, at the latest where it ends.

    Time spent waiting, and time in which other threads or processes have the CPU, does not count. The limit holds in
    the main thread only: Python runs signal handlers nowhere else. In any other thread the block has no limit.

    ITIMER_PROF counts the CPU time of all threads, hence never fires too late; a handler that finds time left sets it
    again. If an ITIMER_PROF was already running (an outer `time_limit`, a profiler), it pauses and goes on afterwards
    with the CPU time it had left. ITIMER_REAL and SIGALRM are not touched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    running, used_up = True, False
    end = time.thread_time() + seconds

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal used_up
        left = end - time.thread_time()
        if not running:
            return
        if left > 0:
            signal.setitimer(signal.ITIMER_PROF, max(left, SHORTEST_S), AGAIN_S)
            return
        used_up = True
        raise OutOfTime

    handler = signal.signal(signal.SIGPROF, stop)
    before = time.process_time()
    paused, interval = signal.setitimer(signal.ITIMER_PROF, max(seconds, SHORTEST_S), AGAIN_S)
    try:
        try:
            yield
        finally:
            running = False
    finally:
        running = False  # again, for a signal that came just before the line above
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # drops a signal on its way: by default it would end the process
        signal.signal(signal.SIGPROF, handler or signal.SIG_DFL)
        if paused:
            left = paused - (time.process_time() - before)
            signal.setitimer(signal.ITIMER_PROF, max(left, SHORTEST_S), interval)
    if used_up:  # the block swallowed the exception, so its result cannot be trusted
        raise OutOfTime


def costly(text: str) -> bool:
    """Whether SymPy might compute something astronomically large from `text`.

    >>> costly("9^{9^9}"), costly("123456!"), costly("x^2+2x+1")
    (True, True, False)
    """
    flat = NOISE.sub("", text.replace("**", "^"))
    if depth(flat) > MAX_DEPTH or flat.count("^") > MAX_CARETS:
        return True
    if COSTLY.search(flat) or POWER_OF_POWER.search(flat):
        return True
    exponents = [next(filter(None, match.groups()), "") for match in EXPONENT.finditer(flat)]
    unread = flat.count("^") - sum(1 + exponent.count("^") for exponent in exponents)
    if unread or any(re.search(r"[\d)\]}]\^|!|binom|choose", exponent) for exponent in exponents):
        return True  # an exponent that nests too deeply to be read, or holds a power, a factorial or a binomial
    sizes = [prod(max(1, int(number)) for number in WHOLE.findall(exponent)) for exponent in exponents]
    if not GROUP_POWER.search(flat):
        return max(sizes, default=1) > MAX_EXPONENT
    return prod(sizes) > MAX_EXPONENT or "!" in flat  # a power of a sum or a bracket may be a power of powers


def depth(text: str) -> int:
    """Return how deeply parentheses, brackets and braces are nested.

    >>> depth("(a[b]{c(d)})")
    3
    """
    level = deepest = 0
    for character in text:
        level += (character in "([{") - (character in ")]}")
        deepest = max(deepest, level)
    return deepest
