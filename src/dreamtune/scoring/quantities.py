r"""Read and compare quantities: numbers with separators, fractions, powers of ten, currency, percent signs and units.

A unit that only one of two answers has is ignored, since references leave units out. Where both have units that are
known here, the quantities must agree: 150 cm is 1.5 m, and 5 cm is not 5 m.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from dreamtune.scoring.notation import MAX_CHARACTERS
from dreamtune.scoring.units import measure, unit_of

MAX_EXPONENT = 400  # of ten: a larger power would be computed digit by digit
CODES = "USD|EUR|GBP|JPY|INR|CNY|RMB|CHF|CAD|AUD|NZD|HKD|SGD|SEK|NOK|DKK|KRW|BRL|MXN|ZAR|PLN|RUB|TRY"
CURRENCY = (
    rf"(?:(?:US|AU?|CA?|NZ|HK|NT|S|R)?\\?\$|[€£¥₹₩₽₺₴₫฿₦₱₪¢]|\b(?:{CODES})\b|Rs\.?|\\(?:euro|pounds|textsterling|yen"
    rf"|rupee)\b)"
)
DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+|(?=\.\d))(?:\.\d*)?"
AMOUNT = (
    rf"(?:(?P<whole>\d+)\s*(?:(?:\s|and\s)\s*(?P<a>\d+)\s*/\s*(?P<b>\d+)"
    rf"|(?:and\s)?\s*\\[dtc]?frac\{{(?P<c>\d+)\}}\{{(?P<d>\d+)\}})"
    rf"|(?P<repeating>\d*\.\d*)\\overline\{{(?P<period>\d+)\}}"
    rf"|\\[dtc]?frac\{{(?P<top>[-+]?\d+)\}}\{{(?P<bottom>[-+]?\d+)\}}|(?P<over>\d+)\s*(?:/|over|out of"
    rf"|in every)\s*(?P<under>\d+)"
    rf"|(?P<number>{DECIMAL})(?:[eE](?P<e>[-+]?\d+)|\s*(?:\\times|\\cdot"
    rf"|\*)\s*10\s*\^\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}?)?)"
)
QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>{CURRENCY}?)\s*(?P<sign2>[-+]?){AMOUNT}"
    rf"\s*(?:(?P<after>{CURRENCY})|(?P<percent>\\?%)|(?P<degrees>(?:\^\s*\{{?\s*\\circ\s*\}}?|\\degree|°)\s*[CF]?)"
    rf"|(?P<unit>(?:\\frac\s*\{{|(?<![\d/])/\s*)?[A-Za-z][^=+,;!?()]*))?"
)
CLOCK = re.compile(
    r"(?P<h>\d{1,2})(?::(?P<min>[0-5]\d))?(?::[0-5]\d)?\s*(?P<half>[ap])\.?\s?m\.?|(?P<name>noon|midnight)",
    re.IGNORECASE,
)
HOURS = re.compile(r"(?P<h>\d{1,2}):(?P<min>[0-5]\d)(?:\s*(?:o'clock|h|hours|hrs))?", re.IGNORECASE)
FRACTION = re.compile(r"\d\s*/|frac|overline|:|over|out of|in every")
# "5 (five)", "12 (apples)": what stands in brackets after a quantity explains it.
EXPLAINED = re.compile(
    r"(?P<stated>[^()]*\d[^()]*\s)\((?P<words>[^()]*[A-Za-z]{2}[^()]*|\d[\d,.]*)\)\s*(?P<rest>[A-Za-z ]{0,30})"
)
PART = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|(?<=[A-Za-z.])\s+(?=\d)|(?<=[a-z])(?=\d)")


@dataclass(frozen=True)
class Quantity:
    """A rational number and the text of its unit ("" for none, "%" for per cent)."""

    value: Fraction
    unit: str


def read_quantity(text: str) -> Quantity | None:
    r"""Return the quantity that a tidied `text` states, or None if any of the text is something else.

    >>> read_quantity("1,250.5 km"), read_quantity(r"\frac{1}{2}"), read_quantity("5 or 6")
    (Quantity(value=Fraction(2501, 2), unit='km'), Quantity(value=Fraction(1, 2), unit=''), None)
    """
    if len(text) > MAX_CHARACTERS:
        return None
    if clock := CLOCK.fullmatch(text):
        hours = 12 if clock["name"] else int(clock["h"]) + Fraction(int(clock["min"] or 0), 60)
        return Quantity(Fraction(hours), f"{clock['half'].lower()}m" if clock["half"] else "")
    explained = EXPLAINED.fullmatch(text)
    if explained and (
        not explained["words"][0].isdigit()
        or read_quantity(explained["words"]) == read_quantity(explained["stated"].strip())
    ):
        text = f"{explained['stated'].strip()} {explained['rest']}".strip()
    # A decoder may put blanks between digits; "1 1/2" is a mixed number and "10 000" one number.
    joined = re.sub(r"(?<=[\d.])\s+(?=[\d.])(?!\d+\s*/)", "", text)
    match = QUANTITY.fullmatch(joined)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    value = _amount(match)
    unit = _unit(joined, match)
    if value is None or unit is None:
        return None
    return Quantity(-value if "-" in match["sign"] + match["sign2"] else value, unit)


def _amount(match: re.Match[str]) -> Fraction | None:
    """Return the number that QUANTITY matched, without its sign; None for x / 0 and for huge powers of ten."""
    for top, bottom in (("a", "b"), ("c", "d"), ("top", "bottom"), ("over", "under")):
        if match[top] is not None:
            part = Fraction(int(match[top]), int(match[bottom])) if int(match[bottom]) else None
            return part if part is None or not match["whole"] else part + int(match["whole"])
    if match["period"]:
        digits, period = match["repeating"], match["period"]
        decimals = len(digits.split(".")[1])
        return Fraction("0" + digits + "0") + Fraction(int(period), (10 ** len(period) - 1) * 10**decimals)
    number = match["number"].replace(",", "")
    exponent = match["e"] or match["ten"] or "0"
    if not number.strip(".") or len(exponent) > 4 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return Fraction(number) * Fraction(10) ** int(exponent)


def _unit(text: str, match: re.Match[str]) -> str | None:
    """Return the unit's text ("" for none), or None where the text after the number is no unit."""
    if match["percent"] or match["degrees"]:
        return "%" if match["percent"] else "°"
    if not (match["unit"] or "").strip():
        return (match["after"] or match["before"] or "").lstrip("\\").replace("US$", "$")
    unit = unit_of(match["unit"], spaced=text[match.start("unit") - 1] == " ")
    # In "$5 per hour" the sign is part of the unit, which is then left as a text.
    return f"{match['before'].lstrip(chr(92))} {unit}" if unit and match["before"] and measure(unit) else unit


def same_quantity(given: Quantity, expected: Quantity) -> bool:
    """Whether the quantities agree.

    A unit that only one has is ignored. If only one has a per cent sign, 50 % agrees with 50 and with 0.5.
    """
    if ("%" in given.unit) != ("%" in expected.unit) and not (given.unit and expected.unit):
        whole = given.value / 100 if "%" in given.unit else given.value
        wanted = expected.value / 100 if "%" in expected.unit else expected.value
        return given.value == expected.value or whole == wanted
    ours = measure(given.unit) if given.unit else None
    theirs = measure(expected.unit) if expected.unit else None
    if ours is None or theirs is None:
        return given.value == expected.value
    return ours[1] == theirs[1] and given.value * ours[0] == expected.value * theirs[0]


def same_compound(given: str, expected: str) -> bool | None:
    """Compare quantities of which at least one is given in several units; None if neither is.

    >>> same_compound("2 hours and 30 minutes", "150 minutes"), same_compound("5 dollars and 50 cents", "5.5")
    (True, True)
    """
    found, wanted = _compound(given), _compound(expected)
    if found is None and wanted is None:
        return None
    if found and wanted:
        return found[0] == wanted[0] and found[1][0][1] == wanted[1][0][1]
    size, units = found or wanted or (Fraction(0), [])
    other = read_quantity(given if wanted else expected)
    if other is None:
        return False
    known = measure(other.unit) if other.unit else None
    if known is None:
        return any(other.value * unit == size for unit, _ in units)
    return known[1] == units[0][1] and other.value * known[0] == size


def _compound(text: str) -> tuple[Fraction, list[tuple[Fraction, frozenset[tuple[str, int]]]]] | None:
    """Return the total of "5 feet 6 inches" and its units' measures; None unless these are of one kind and shrink."""
    parts = [read_quantity(part) for part in PART.split(text)] if len(text) <= MAX_CHARACTERS else []
    measures = [measure(part.unit) if part and part.unit else None for part in parts]
    if not 2 <= len(parts) <= 5 or None in measures:
        return None
    units = [unit for unit in measures if unit]
    shrinking = all(a[1] == b[1] and a[0] > b[0] for a, b in pairwise(units))
    total = sum((part.value * unit[0] for part, unit in zip(parts, units, strict=True) if part), Fraction(0))
    return (total, units) if shrinking else None


def same_time(given: str, expected: str) -> bool | None:
    """Compare times of day, of which at least one says am, pm, noon or midnight; None if the texts are no two times.

    >>> same_time("9:00", "9 a.m."), same_time("21:00", "9:00 PM"), same_time("9:30", "9:30 pm"), same_time("9", "9 am")
    (True, True, True, None)
    """
    found, wanted = _minutes(given), _minutes(expected)
    if found is None or wanted is None or not (found[1] or wanted[1]):
        return None
    return (
        found[0] == wanted[0] if found[1] and wanted[1] else found[0] % 720 == wanted[0] % 720 or found[0] == wanted[0]
    )


def _minutes(text: str) -> tuple[int, bool] | None:
    """Return the minutes since midnight, and whether the half of the day was said."""
    if (clock := CLOCK.fullmatch(text)) and clock["name"]:
        return (720 if clock["name"].lower() == "noon" else 0), True
    match = clock or HOURS.fullmatch(text)
    if match is None or int(match["h"]) > 24:
        return None
    minutes = 60 * int(match["h"]) + int(match["min"] or 0)
    return (minutes % 720 + 720 * (clock["half"].lower() == "p"), True) if clock else (minutes, False)


def as_number(text: str) -> Fraction | None:
    """Return the value of a plain number, with or without thousands separators, a currency sign or a unit; else None.

    >>> as_number("$1,200"), as_number("3 apples"), as_number("1/2")
    (Fraction(1200, 1), Fraction(3, 1), None)
    """
    quantity = read_quantity(text.replace("−", "-"))
    return None if quantity is None or FRACTION.search(text) else quantity.value
