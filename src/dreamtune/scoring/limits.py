r"""What keeps hostile mathematics cheap: a wall-clock limit, and a look at a formula before SymPy sees it.

Python cannot interrupt one huge integer power or factorial, so a timer alone is not enough: what might compute
something astronomically large is refused unread.
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
NOISE = re.compile(r"\\left|\\right|\\[,;:! ]|\s|(?<=\d),(?=\d)")
# An exponent: a group of two levels at most (deeper ones are refused), or one token.
EXPONENT = re.compile(r"\^(?:\{((?:[^{}]|\{[^{}]*\})*)\}|\(((?:[^()]|\([^()]*\))*)\)|([-+]?[\d.]+|[^{(]))")
WHOLE = re.compile(r"(\d+)(?:\.\d*)?")
POWER_OF_POWER = re.compile(r"\^[-+]?\w[\d.]*\^|![)\]}]*\^")
GROUP_POWER = re.compile(r"[)\]}]\^")
COSTLY = re.compile(r"[\d.]e[-+]?\d{4,}|\d{5,}!|!!|[)\]}]!|(?:binom|choose)[^=]*\d{5}|\d{5}[^=]*choose", re.IGNORECASE)


class OutOfTime(BaseException):
    """Passes through the `except Exception` clauses of SymPy and math-verify."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after `seconds`, in the main thread only (elsewhere Python allows no timer signals).

    A timer that was already running (a test runner's, say) goes on afterwards with what it had left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    running = True

    def stop(number: int, frame: FrameType | None) -> None:
        if running:
            raise OutOfTime

    handler = signal.signal(signal.SIGALRM, stop)
    started = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), interval)


def costly(text: str) -> bool:
    """Whether SymPy might compute something astronomically large from `text`."""
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
    """Return how deeply parentheses, brackets and braces are nested."""
    level = deepest = 0
    for character in text:
        level += (character in "([{") - (character in ")]}")
        deepest = max(deepest, level)
    return deepest
