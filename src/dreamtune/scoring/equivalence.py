r"""Whether two short answers mean the same: text, numbers, then mathematics (math-verify, over SymPy).

The cheap rules decide wherever they apply, because SymPy reads words as products of letters (so "Navin" would
equal "Vanni") and "4 2", a decoder's spacing of 42, as a mixed number. Other answers go to math-verify, unless they
could make it compute something huge (limits.py): then they are compared as text only.

A comparison has a limit of CPU time, is tried once more with ten times that limit, and then counts as undecided. So
the result follows from the two texts; how busy the machine is only decides how long it takes.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache

from dreamtune.scoring import backstop
from dreamtune.scoring.formulas import as_set, mathematically_equal, other_product, same_congruence, same_named
from dreamtune.scoring.limits import OutOfTime, costly, time_limit
from dreamtune.scoring.notation import MAX_CHARACTERS, strict_form, tidy
from dreamtune.scoring.quantities import Quantity, read_quantity, same_compound, same_quantity, same_time
from dreamtune.scoring.wordings import family, same_choice, same_verdict, same_words, stated

SECOND_TRY = 10.0  # times the limit of the first
# Pairs that take the parser and SymPy through their slow first steps: grammar tables, imports, caches.
WARMING = (
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{2}}{3}", r"\sqrt{2}/3"),
    (r"[1,2)\cup(3,4]", r"(3,4]\cup[1,2)"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("x<3", r"(-\infty,3)"),
    ("y=5x", "y=5x+1"),
    (r"\sin(x)+\log_2 8", "x+e^{i\\pi}"),
)
MAX_WORDS = 5  # more words than this make a sentence
WORD = re.compile(r"[^\W\d_]{2,}")
WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'’-]+[^\W\d_]+)*")
COMMAND = re.compile(r"\\[A-Za-z]+")
NUMERAL = re.compile(r"(?P<digits>(?=[A-Fa-f]*\d)[\dA-Fa-f]+)(?:_\s*\{?\s*(?P<base>\d+)\s*\}?)?")
RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*(?::|to)\s*\d+(?:\.\d+)?)+")
PROSE = re.compile(
    r"(?<![A-Za-z])(?!(?:sqrt|sin|cos|tan|cot|sec|csc|log|exp|mod|gcd|lcm|max|min|det|arcsin|arccos"
    r"|arctan)(?![a-z]))[A-Za-z]{3,}"
)
SET = re.compile(r"\\?\{.*\\?\}", re.DOTALL)
ONE_BRACKET = re.compile(r"[(\[][^()\[\]]*[)\]]")
NAME = re.compile(r"(?:\\[a-z]+\s*)?[A-Za-z\s]*(?:_\s*\{?\w+\}?)?'?(?:\s*\([A-Za-z\d, ]+\))?")
ARITHMETIC = re.compile(r"(?:[\d\s+*/().-]|\\(?:cdot|times|div)(?![a-z]))+")
RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|neq?|lt|gt|in|equiv)(?![a-z])|[,;](?!\d{3})|\b(?:or|and)\b")


class ParserIsCold(BaseException):
    """The parser is needed and was not used before. Passes the `except Exception` clauses around it."""


def equivalent(answer: str, reference: str, timeout_s: float = 1.0) -> bool | None:
    """Whether `answer` means what `reference` means; None if that stays undecided. Never raises.

    Args:
        answer: a short text, as the model gave it.
        reference: the text it is compared with.
        timeout_s: CPU seconds of this thread for the first try; a second one has `SECOND_TRY` times as many, and
            after that the pair is undecided. Outside of the main thread there is no limit (see `limits.time_limit`).
    """
    if strict_form(answer) == strict_form(reference):
        return bool(strict_form(answer))
    if max(len(answer), len(reference)) > 4 * MAX_CHARACTERS:
        return False
    try:
        return _equivalent(answer, reference, timeout_s)
    except OutOfTime:
        return None


@lru_cache(maxsize=4096)  # which keeps no exception, hence no pair that ran out of time
def _equivalent(answer: str, reference: str, timeout_s: float) -> bool:
    for seconds in (timeout_s, SECOND_TRY * timeout_s):
        backstop.note(answer=answer, reference=reference)
        try:
            return _within(seconds, answer, reference)
        except ParserIsCold:
            warm_parser()
            return _equivalent(answer, reference, timeout_s)
        except OutOfTime:
            _forget_marks()  # SymPy marks what it is about to find out, and an interruption leaves such marks behind
    raise OutOfTime


def _forget_marks() -> None:
    from sympy.core.cache import clear_cache

    clear_cache()


def _within(seconds: float, answer: str, reference: str) -> bool:
    with time_limit(seconds):
        try:
            return _same(tidy(answer), tidy(reference))
        except Exception:  # a parser built on recursion and regular expressions can fail in any way on model output
            return False


@lru_cache(maxsize=1)
def warm_parser() -> None:
    """Let the parser and SymPy do once, outside of any limit, what only a process's first formulas cost (1 s)."""
    for pair in WARMING:
        with suppress(Exception):
            mathematically_equal(*pair)


def _same(given: str, expected: str) -> bool:
    """Whether two tidied answers mean the same: the first rule that applies decides."""
    if not given or not expected:
        return False
    if strict_form(given) == strict_form(expected):
        return True
    values = same_named(given, expected)
    if isinstance(values, bool):
        return values
    given, expected = (as_set(family(text)) for text in values)
    if strict_form(given) == strict_form(expected):
        return True
    for rule in RULES:
        decided = rule(given, expected)
        if decided is not None:
            return decided
    if (
        max(len(given), len(expected)) > MAX_CHARACTERS
        or costly(given)
        or costly(expected)
        or other_product(given, expected)
    ):
        return False
    if not warm_parser.cache_info().currsize:
        raise ParserIsCold
    return mathematically_equal(given, expected)


def _as_quantities(given: str, expected: str) -> bool | None:
    """Compare numbers with units; an equation or a short sentence that states a number counts as that number."""
    wanted = read_quantity(expected) or _stated(expected)
    found = read_quantity(given) or (_stated(given) if wanted else None)
    return same_quantity(found, wanted) if found and wanted else None


def _stated(text: str) -> Quantity | None:
    """Return the quantity of `x = 5`, `5 = x`, `2 + 3 = 5` or "the difference is 5 dollars", or None."""
    if "=" in text:
        *left, right = (part.strip() for part in text.split("="))
        if RELATION.search(text) or not all(map(ARITHMETIC.fullmatch, left[1:])):
            return None
        if NAME.fullmatch(left[0]) or ARITHMETIC.fullmatch(left[0]):
            return read_quantity(right) or (read_quantity(left[0]) if NAME.fullmatch(right) else None)
        return None
    return stated(text)


def _as_choices(given: str, expected: str) -> bool | None:
    return same_choice(given, expected, _same)


def _as_prose(given: str, expected: str) -> bool | None:
    """Say False for a number against a text with words that make it no number: "5 or more", "5 squared"."""
    for one, other in ((given, expected), (expected, given)):
        if read_quantity(one) and PROSE.search(COMMAND.sub(" ", other)):
            return False
    return None


def _as_words(given: str, expected: str) -> bool | None:
    """Compare words as text, and say False for a sentence: SymPy would multiply their letters."""
    words = WORDS.fullmatch(given) is not None, WORDS.fullmatch(expected) is not None
    prose = [len(WORD.findall(COMMAND.sub(" ", text))) > MAX_WORDS for text in (given, expected)]
    if (same := same_words(given, expected)) is not None and (same or all(words)):
        return same
    return False if all(words) or any(prose) else None


def _as_numerals(given: str, expected: str) -> bool | None:
    """Compare numerals with a base as subscript, such as 2516_8; a base that only one of them has is ignored."""
    found, wanted = NUMERAL.fullmatch(given), NUMERAL.fullmatch(expected)
    if found is None or wanted is None or not (found["base"] or wanted["base"]):
        return None
    same_base = not (found["base"] and wanted["base"]) or found["base"] == wanted["base"]
    return same_base and found["digits"].casefold() == wanted["digits"].casefold()


def _as_ratios(given: str, expected: str) -> bool | None:
    """Compare ratios, such as "3 to 4", 3:4 and 6:8; None unless one side is written with a colon or "to"."""
    texts = [text.strip("()") for text in (given, expected)]
    if not any(RATIO.fullmatch(text) for text in texts):
        return None
    if not all(RATIO.fullmatch(text) for text in texts):
        return None
    one, other = ([Fraction(part) for part in re.split(r"\s*(?::|to)\s*", text)] for text in texts)
    return len(one) == len(other) and all(a * other[0] == b * one[0] for a, b in zip(one, other, strict=True))


def _as_brackets(given: str, expected: str) -> bool | None:
    """Say False for a set in braces against a point or an interval in brackets."""
    for one, other in ((given, expected), (expected, given)):
        if SET.fullmatch(one) and ONE_BRACKET.fullmatch(other):
            return False
    return None


# Each rule says whether two tidied answers mean the same, or None where it does not apply.
RULES: tuple[Callable[[str, str], bool | None], ...] = (
    same_time,
    same_compound,
    _as_quantities,
    _as_choices,
    same_verdict,
    same_congruence,
    _as_prose,
    _as_words,
    _as_numerals,
    _as_ratios,
    _as_brackets,
)
