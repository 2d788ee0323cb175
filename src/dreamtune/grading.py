r"""Whether two short answers mean the same: text, numbers, then mathematics (math-verify, over SymPy).

The cheap readings decide wherever they apply, because SymPy reads words as products of letters (so "Navin" would
equal "Vanni") and "4 2", a decoder's spacing of 42, as a mixed number. What is left goes to math-verify under one
wall-clock limit. Python cannot interrupt one huge integer power, so towers of powers and the like are refused unread.
"""

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from types import FrameType

from math_verify import parse, verify

MAX_CHARACTERS = 300  # a longer answer is compared as text only
MAX_DEPTH = 20  # of nested parentheses and braces: the parser's time grows steeply with it
AGAIN_S = 0.05  # an exception that falls into a destructor or a callback is lost: raise it again
WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))
SPACING = re.compile(r"\\[,!;: ]|~|\\q?quad\b")
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
PLAIN_NUMBER = re.compile(
    r"(?:\\?[$€£¥]\s*)?(?P<number>[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d*)?)"
    r"\s*(?:(?:\\?[$€£¥])|(?P<unit>[A-Za-z][A-Za-z.\s/]*)|(?:\^\s*\{?\s*\\circ\s*\}?)|°|\\?%)?"
)
# ASSUME: a word after a number is a unit and is ignored, unless it changes the number or is a formula's letter.
NOT_UNITS = re.compile(r"^[A-Za-z]$|\b(?:hundred|thousand|million|billion|trillion|dozen|percent|pct|pi|sqrt|or|and)\b")
CHOICE = re.compile(r"\(?\s*([A-Za-z])\s*\)?[.:]?")
WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'’-]+[^\W\d_]+)*")
COSTLY = re.compile(
    r"\^[-+]?\d[\d.,]*\^"  # a power of a power
    r"|\^[-+]?\d{6,}|\d{6,}!|!!|[)\]}]!"  # a huge exponent; the factorial of something huge or unread
    r"|\^[^\^]*\d\^|binom[^=]*\d{5}"
)

# math-verify warns once that its own time limit is off; ours is on.
logging.getLogger("math_verify").setLevel(logging.ERROR)


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


def tidy(answer: str) -> str:
    """Return the answer without math delimiters, LaTeX spacing, text commands, outer blanks and a closing stop."""
    text = SPACING.sub(" ", answer[: 4 * MAX_CHARACTERS].replace("\\left", "").replace("\\right", ""))
    text = TEXT_COMMAND.sub(r" \1 ", text).strip().rstrip(".;,:").strip()
    for opening, closing in WRAPPERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return " ".join(text.rstrip(".;,:").split())


def strict_form(answer: str) -> str:
    """Return the answer as the strict reading compares it: no white space, no closing punctuation, one case."""
    return "".join(answer.split()).rstrip(".;,:!").casefold()


def as_number(text: str) -> Fraction | None:
    """Return the value of a plain number, with or without thousands separators, a currency sign or a unit."""
    joined = re.sub(r"(?<=[\d.])\s+(?=[\d.])", "", text)  # a decoder may put blanks between digits
    match = PLAIN_NUMBER.fullmatch(joined) if len(joined) <= MAX_CHARACTERS else None
    if match is None or NOT_UNITS.search((match["unit"] or "").strip().lower()):
        return None
    number = match["number"].replace(",", "").replace("−", "-")
    return Fraction(number) if number.strip("+-.") else None


def percent_apart(given: str, expected: str, value: Fraction, wanted: Fraction) -> bool:
    """Whether the numbers agree once a per cent sign that only one of the two carries is worked out."""
    if ("%" in given) == ("%" in expected):
        return False
    return value / 100 == wanted if "%" in given else value == wanted / 100


def costly(text: str) -> bool:
    """Whether SymPy might compute something astronomically large from `text`."""
    flat = text.replace("**", "^")
    for noise in ("{", "(", " ", "\\left", "\\,", "\\cdot", "\\times"):
        flat = flat.replace(noise, "")
    return bool(COSTLY.search(flat)) or text.count("^") > 12 or depth(text) > MAX_DEPTH


def depth(text: str) -> int:
    """Return how deeply parentheses, brackets and braces are nested."""
    level = deepest = 0
    for character in text:
        level += (character in "([{") - (character in ")]}")
        deepest = max(deepest, level)
    return deepest


@lru_cache(maxsize=4096)
def equivalent(answer: str, reference: str, timeout_s: float = 1.0) -> bool:
    """Whether `answer` means what `reference` means. Never raises, and gives up (False) after `timeout_s` seconds."""
    if strict_form(answer) == strict_form(reference):
        return True
    given, expected = tidy(answer), tidy(reference)
    if not given or not expected:
        return False
    if strict_form(given) == strict_form(expected):
        return True
    numbers = as_number(given), as_number(expected)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1] or percent_apart(given, expected, numbers[0], numbers[1])
    choice = CHOICE.fullmatch(expected)
    if choice and (picked := re.match(r"\(?([A-Za-z])\b\)?(?=[\s.:,)]|$)", given)):
        return picked.group(1).casefold() == choice.group(1).casefold()
    if WORDS.fullmatch(given) and WORDS.fullmatch(expected):
        return False  # as text they differ
    if max(len(given), len(expected)) > MAX_CHARACTERS or costly(given) or costly(expected):
        return False
    return _mathematically_equal(given, expected, timeout_s)


def _mathematically_equal(given: str, expected: str, timeout_s: float) -> bool:
    try:
        with time_limit(timeout_s):
            wanted = parse(f"${expected}$", parsing_timeout=None)
            found = parse(f"${given}$", parsing_timeout=None)
            return bool(verify(wanted, found, timeout_seconds=None))
    except OutOfTime:
        return False
    except Exception:  # a parser built on recursion and regular expressions can fail in any way on model output
        return False
