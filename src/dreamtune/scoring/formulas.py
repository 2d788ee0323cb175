r"""Compare formulas by math-verify, which parses LaTeX into SymPy, and keep it from what it takes for the same.

math-verify compares numbers to 15 digits *after the point* and decimals to 6, drops primes, reads 30° as 30 radians and
cuts what it cannot parse: $10^{-20}$ would equal $10^{-21}$, and $4\sqrt(2)$ would equal 4. So decimals are compared as
the fractions they are, numbers to 200 digits, and names, derivatives and congruences are read here.
"""

import logging
import re
from typing import Any

from dreamtune.scoring.units import without_unit

DIGITS = 200  # to which numbers are compared whose difference has no closed form
DIGITS_OF_SUMS = 30  # the same for sums, products and integrals, of which each digit costs time
# Names that a value may be given to: x, x_1, f(x), f'(x), P(A), \angle ABC, \vec{v}, dy/dx, |AB|, "the area".
DERIVATIVE = re.compile(
    r"\\[dt]?frac\s*\{\s*(?:d|\\partial|\\mathrm\{d\})\s*(?:\^\s*\{?(?P<order>\d)\}?)?\s*(?P<of>[A-Za-z]?)\s*\}\s*"
    r"\{\s*(?:d|\\partial)\s*(?P<by>[A-Za-z])\s*(?:\^\s*\{?\d\}?)?\s*\}(?:\s*(?:\\left)?[(\[]?\s*(?P<after>[A-Za-z])"
    r"(?:\s*\(\s*[a-z]\s*\))?[)\]]?(?=\s*=))?"
    r"|\bd(?P<of2>[a-z])\s*/\s*d(?P<by2>[a-z])\b"
)
PRIMED = re.compile(
    r"(?<![A-Za-z\\])(?P<of>[A-Za-z])\s*(?:\^\s*\{?\s*)?(?P<primes>'{1,4}"
    r"|\\prime(?:\s*\\prime){0,3})\s*\}?(?P<by>\s*\(\s*[a-z]\s*\))?"
)
NAME = re.compile(
    r"(?:(?:m\s*)?\\(?:angle|triangle|vec|overline|overrightarrow|bar|hat|dot|ddot|lim|max|min)(?![A-Za-z])\s*)?"
    r"(?:\\[a-z]+|\{[A-Za-z]{1,3}\}|[A-Za-z]{1,3}"
    r"|\|[A-Za-z]{1,3}\|)\s*(?:_\s*\{?\w{1,6}\}?)?'{0,3}(?:\s*[(\[][A-Za-z\d,|=<> ]{1,20}[)\]])?"
)
RELATION = re.compile(
    r"[<>]|\\(?:le|ge|ne|in|notin|equiv|approx|to|subset|subseteq|mid|parallel|perp|lim|sum|prod|int|max"
    r"|min)(?![a-z])"
)
DEGREES = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°|degrees?)")
TRIGONOMETRIC = re.compile(r"(?:\\|\b)(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
SUM = re.compile(r"\\(?:sum|prod|int|lim)(?![a-z])")
LOGARITHM = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")
CONGRUENCE = re.compile(
    r"(?:(?P<name>[^=]{1,30}?)\s*(?:\\equiv|=))?\s*(?P<residue>-?\d{1,12})\s*(?:\\pmod|\\mod|\\bmod"
    r"|\(?\s*(?:\\)?mod\b)\s*\{?\s*(?P<modulus>\d{1,12})\s*\}?\s*\)?"
)
SET_BUILDER = re.compile(
    r"\\?\{\s*[a-z]\s*(?:\\in\s*(?:\\mathbb\s*\{?R\}?))?\s*(?:\||\\mid"
    r"|:)\s*(?P<condition>[^{}]*?[<>\\=][^{}]*?)\s*\\?\}"
)
UNKNOWN = r"(?P<name>[a-z])"
VALUE = r"(?P<{}>[^<>=,;]{{1,40}}?)"
ONE_SIDED = re.compile(rf"\s*(?:{UNKNOWN}\s*(?P<relation><|>|\\le|\\ge|\\ne)\s*{VALUE.format('value')})\s*")
TWO_SIDED = re.compile(
    rf"\s*{VALUE.format('low')}\s*(?P<first><|\\le)\s*{UNKNOWN}\s*(?P<second><|\\le)\s*{VALUE.format('high')}\s*"
)
COMMAND = re.compile(r"\\[A-Za-z]+")
FUNCTIONS = ("y", "f(x)", "g(x)", "h(x)", "f", "y(x)")
CROSS = re.compile(r"\\times(?![A-Za-z])")
VECTOR = re.compile(r"\\(?:vec|overrightarrow)(?![A-Za-z])")

# math-verify warns once that its own time limit is off; ours is on.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def mathematically_equal(given: str, expected: str) -> bool:
    """Whether two tidied formulas are the same; takes any time, and raises whatever the parser or SymPy raises."""
    if TRIGONOMETRIC.search(given + expected) or r"\pi" in given + expected:
        given, expected = (DEGREES.sub(r"(\\frac{\g<number>\\pi}{180})", text) for text in (given, expected))
    if LOGARITHM.search(given + expected):  # of base 10 in some books, and of base e in others
        spellings = (r"\\ln ", r"\\log_{10} ")
        return any(
            _equal(*(LOGARITHM.sub(spelling, text) for text in (given, expected))) for spelling in spellings
        ) or _equal(given, LOGARITHM.sub(r"\\ln ", expected))
    return _equal(given, expected)


def _equal(given: str, expected: str) -> bool:
    from math_verify import parse, verify  # with SymPy half a second, which plain numbers and words never need

    texts = [_symbols(without_unit(text)) for text in (expected, given)]
    wanted, found = ([_exact(one, texts) for one in parse(f"${text}$", parsing_timeout=None)] for text in texts)
    digits = DIGITS_OF_SUMS if SUM.search(given + expected) else DIGITS
    settings = {"float_rounding": digits, "numeric_precision": digits, "allow_set_relation_comp": True}
    return bool(verify(wanted, found, timeout_seconds=None, **settings))


def _symbols(text: str) -> str:
    r"""Return the formula with derivatives and primed letters as letters of their own, and vectors as tuples.

    >>> _symbols(r"\frac{dy}{dx} + y''"), _symbols(r"\langle 1, 2 \rangle")
    ('y_{d1} + y_{d2}', '( 1, 2 )')
    """
    text = DERIVATIVE.sub(
        lambda match: f"{match['of'] or match['after'] or match['of2'] or 'f'}_{{d{match['order'] or 1}}}", text
    )
    text = PRIMED.sub(
        lambda match: f"{match['of']}_{{d{match['primes'].count(chr(39)) or match['primes'].count('prime')}}}", text
    )
    return text.replace(r"\langle", "(").replace(r"\rangle", ")")


def _exact(parsed: Any, texts: list[str]) -> Any:
    """Return a parsed formula with decimals as fractions, and with i and e as the numbers that they usually are."""
    import sympy

    if not hasattr(parsed, "atoms"):
        return parsed
    numbers: dict[Any, Any] = {number: sympy.Rational(str(number)) for number in parsed.atoms(sympy.Float)}
    if not any(re.search(r"\\(?:sum|prod)(?![a-z])|_\s*\{?i\b|_\s*\{?e\b", text) for text in texts):
        named = {"i": sympy.I, "e": sympy.E}
        numbers |= {symbol: named[symbol.name] for symbol in parsed.free_symbols if symbol.name in named}
    if not numbers:
        return parsed
    return parsed.subs(numbers) if isinstance(parsed, sympy.MatrixBase) else parsed.xreplace(numbers)


def same_named(given: str, expected: str) -> tuple[str, str] | bool:
    r"""Return the two values of "name = value", or False if the names differ; other texts are returned as they are.

    A name that only one side gives is left out.

    >>> same_named("2x", r"\frac{dy}{dx} = 2x"), same_named("P(A) = 0.3", "P(B) = 0.3"), same_named("x+y=1", "x-y=1")
    (('2x', '2x'), False, ('x+y=1', 'x-y=1'))
    """
    found, wanted = _named(given), _named(expected)
    if found and wanted:
        names = _name(found[0]), _name(wanted[0])
        if names[0] == names[1] or (names[0] in FUNCTIONS and names[1] in FUNCTIONS):
            return found[1], wanted[1]
        values = COMMAND.sub("", found[1] + wanted[1])
        return (given, expected) if re.search("[A-Za-z]", values) else False
    if found and "=" not in expected and not RELATION.search(expected):
        return found[1], expected
    if wanted and "=" not in given and not RELATION.search(given):
        return given, wanted[1]
    return given, expected


def _named(text: str) -> tuple[str, str] | None:
    """Return name and value of "name = value" or of a chain "name = … = value"; None for lists and other texts."""
    left, *rest = (part.strip() for part in text.split("="))
    if (
        not rest
        or not rest[-1]
        or left.count("{") != left.count("}")
        or RELATION.search(text.removeprefix(left))
        or re.search(r"[,;]\s*[A-Za-z\\]|\bor\b|\band\b", text)
    ):
        return None
    if DERIVATIVE.fullmatch(left) or PRIMED.fullmatch(left) or NAME.fullmatch(left) or _derivative_of(left):
        return left, rest[-1]
    return None


def _derivative_of(left: str) -> bool:
    match = DERIVATIVE.match(left)
    return (
        match is not None
        and re.fullmatch(r"\s*[(\[]?\s*[A-Za-z](?:\s*\([a-z]\))?\s*[)\]]?", left[match.end() :]) is not None
    )


def _name(left: str) -> str:
    """Return the name with one spelling for all derivatives of the same order."""
    if match := DERIVATIVE.match(left):
        return f"derivative {match['order'] or 1}"
    if match := PRIMED.fullmatch(left):
        return f"derivative {match['primes'].count(chr(39)) or match['primes'].count('prime')}"
    return re.sub(r"[\s{}]|\\mathrm|^m(?=\\angle)", "", left)


def same_congruence(given: str, expected: str) -> bool | None:
    r"""Compare residues, such as `x \equiv 1 \pmod 3`; None unless both are some.

    >>> same_congruence(r"x \equiv 4 \pmod{3}", "1 (mod 3)"), same_congruence("1 mod 3", "1 mod 5")
    (True, False)
    """
    found, wanted = CONGRUENCE.fullmatch(given.strip()), CONGRUENCE.fullmatch(expected.strip())
    if found is None or wanted is None:
        return None
    modulus = int(wanted["modulus"])
    same_name = not (found["name"] and wanted["name"]) or found["name"].strip() == wanted["name"].strip()
    return (
        same_name
        and int(found["modulus"]) == modulus > 0
        and (int(found["residue"]) - int(wanted["residue"])) % modulus == 0
    )


def as_set(text: str) -> str:
    r"""Return conditions on one unknown that are joined by "or", and sets given by a condition, as intervals.

    >>> as_set("x < 2 or x > 5"), as_set(r"\{x | x > 3\}"), as_set("x = 2 or x = 3")
    ('(-\\infty,2)\\cup(5,\\infty)', '(3,\\infty)', 'x = 2 or x = 3')
    """
    if built := SET_BUILDER.fullmatch(text):
        text = built["condition"]
    elif not re.search(r"\bor\b", text):
        return text
    intervals = [_interval(part) for part in re.split(r"\bor\b|,", text)]
    return r"\cup".join(interval for interval in intervals if interval) if all(intervals) else text


def _interval(condition: str) -> str | None:
    if one := ONE_SIDED.fullmatch(condition):
        value = one["value"].strip()
        closed = "[" if one["relation"] in (r"\le", r"\ge") else "("
        if one["relation"] == r"\ne":
            return rf"(-\infty,{value})\cup({value},\infty)"
        below = one["relation"] in ("<", r"\le")
        return rf"(-\infty,{value}{closed.translate({40: 41, 91: 93})}" if below else rf"{closed}{value},\infty)"
    if two := TWO_SIDED.fullmatch(condition):
        opening, closing = "(" if two["first"] == "<" else "[", ")" if two["second"] == "<" else "]"
        return f"{opening}{two['low'].strip()},{two['high'].strip()}{closing}"
    return None


def other_product(given: str, expected: str) -> bool:
    r"""Whether one side has a cross product of vectors where the other has none: math-verify multiplies both."""
    return bool(VECTOR.search(given) and VECTOR.search(expected)) and bool(CROSS.search(given)) != bool(
        CROSS.search(expected)
    )
