r"""Read and compare quantities: numbers with separators, fractions, powers of ten, currency, percent signs and units.

A unit that only one of two answers has is ignored, since references leave units out. Where both have units that are
known here, the quantities must agree: 150 cm is 1.5 m, and 5 cm is not 5 m.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from dreamtune.scoring.notation import MAX_CHARACTERS

MAX_EXPONENT = 400  # of ten: a larger power would be computed digit by digit
CURRENCY = r"(?:\\?[$€£¥]|USD|EUR|GBP|Rs\.?)"
DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d*)?"
AMOUNT = (
    rf"(?:(?P<whole>\d+)\s*(?:\s(?P<a>\d+)\s*/\s*(?P<b>\d+)|\\[dtc]?frac\{{(?P<c>\d+)\}}\{{(?P<d>\d+)\}})"
    rf"|(?P<repeating>\d*\.\d*)\\overline\{{(?P<period>\d+)\}}"
    rf"|\\[dtc]?frac\{{(?P<top>[-+]?\d+)\}}\{{(?P<bottom>[-+]?\d+)\}}|(?P<over>\d+)\s*/\s*(?P<under>\d+)"
    rf"|(?P<number>{DECIMAL})(?:[eE](?P<e>[-+]?\d+)|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}?)?)"
)
QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<before>{CURRENCY}?)\s*(?P<sign2>[-+]?){AMOUNT}"
    rf"\s*(?:(?P<after>{CURRENCY})|(?P<percent>\\?%)|(?P<degrees>(?:\^\s*\{{?\s*\\circ\s*\}}?|\\degree|°)\s*[CF]?)"
    rf"|(?P<unit>(?:\\frac\s*\{{|(?<![\d/])/\s*)?[A-Za-z][^=+,;!?()]*))?"
)
CLOCK = re.compile(r"(?P<h>\d{1,2})(?:(?::(?P<min>[0-5]\d))?\s*(?P<half>[ap])\.?\s?m\.?|:00)", re.IGNORECASE)
FRACTION = re.compile(r"\d\s*/|frac|overline|:")
UNIT_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
UNIT_TOKEN = re.compile(r"([A-Za-z]+)\.?(?:\^\{?(-?\d)\}?)?")
# ASSUME: a word after a number is a unit, unless it changes the number or is a formula's letter.
NOT_UNITS = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|pi|sqrt|or|and|not|times|plus|minus|over|less|more|squared"
    r"|cubed|factorial|mod|halves|thirds|quarters|tenths|hundredths|thousandths|[ei])\b",
    re.IGNORECASE,
)
SINGLE_LETTERS = frozenset("msghLlNJWVKACF")  # units of one letter, believed only in compounds and after a blank
TABLE = {  # dimension: unit = size, in the dimension's first unit
    "length": "m meter metre=1 mm millimeter=1/1000 cm centimeter centimetre=1/100 km kilometer kilometre=1000 "
    "in inch inches=127/5000 ft foot feet=381/1250 yd yard=1143/1250 mi mile=1609344/1000",
    "time": "s sec second=1 min minute=60 h hr hrs hour=3600 day=86400 week=604800 year=31557600",
    "mass": "g gram=1 mg milligram=1/1000 kg kilogram=1000 oz ounce=28349523125/1000000000 "
    "lb lbs pound=45359237/100000",
    "volume": "L l liter litre=1 ml mL milliliter=1/1000",
    "dollars": "dollar USD $=1 cent=1/100",
    "euros": "euro EUR €=1",
    "pounds sterling": "GBP £=1",
    "angle": "degree °=1",
    "morning": "am=1",
    "afternoon": "pm=1",
    "share": "%=1",
}
UNITS = {
    name: (dimension, Fraction(size))
    for dimension, units in TABLE.items()
    for names, size in re.findall(r"([^=\d]+)=([\d/]+)", units)
    for name in names.split()
}

# Units that end a formula, such as 24\\pi cm^2; longer than a letter, or a letter with a power after a blank.
TAIL_NAMES = "|".join(sorted((n for n in UNITS if len(n) > 1 and n.isalpha()), key=len, reverse=True))
TAIL_UNIT = rf"(?:(?:{TAIL_NAMES}|unit|square|cubic|sq|cup|radian)s?\b\.?|m(?=\s*\^))(?:\s*\^\s*\{{?-?\d\}}?)?"
UNIT_TAIL = re.compile(rf"(?<=[\d)}}\s])(?<![\\A-Za-z])(?:{TAIL_UNIT}(?:\s*/\s*|\s+per\s+|\s+|$))+$")


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
        hours = int(clock["h"]) + Fraction(int(clock["min"] or 0), 60)
        return Quantity(hours, f"{clock['half'].lower()}m" if clock["half"] else "")
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
    unit = (match["unit"] or "").strip()
    if not unit:
        return (match["after"] or match["before"] or "").lstrip("\\")
    unit = re.sub(r"\s*\^\s*", "^", UNIT_FRACTION.sub(r"\1 / \2", unit)).lstrip("/ ")
    tokens = re.split(r"[\s/*]+|(?<=[a-z])-(?=[a-z])|\\cdot", unit)
    spaced = text[match.start("unit") - 1] == " "
    believed = len(tokens) > 1
    for token in filter(None, tokens):
        found = UNIT_TOKEN.fullmatch(token)
        if found is None:
            return None
        # 12 m and 12 m^2 are measures, 5 x^2 is algebra; 12m^2 is left to math-verify.
        letter = found[1] in SINGLE_LETTERS and (believed or spaced)
        if len(found[1]) == 1 and token != "a" and not letter:
            return None
    return None if NOT_UNITS.search(unit) else unit


def measure(unit: str) -> tuple[Fraction, frozenset[tuple[str, int]]] | None:
    """Return (size, dimensions with their powers) of a unit; None if it is unknown or contains an unknown unit.

    The size is in the first units of TABLE:

    >>> size, dimensions = measure("km/h") or (0, frozenset())
    >>> size, sorted(dimensions)
    (Fraction(5, 18), [('length', 1), ('time', -1)])
    """
    size, powers = Fraction(1), Counter[str]()
    direction = 1
    for token in re.findall(r"/|[^\s/*]+", unit.replace(" per ", " / ").replace("\\cdot", " ")):
        if token == "/":
            direction = -1
            continue
        found = UNIT_TOKEN.fullmatch(token)
        name = found[1] if found else token
        known = (
            UNITS.get(name)
            or UNITS.get(name.lower())
            or (UNITS.get(name.lower()[:-1]) if len(name) > 3 and name[-1] == "s" else None)
        )
        if known is None:
            return None
        power = direction * int((found and found[2]) or 1)
        powers[known[0]] += power
        size *= known[1] ** power
    return size, frozenset((name, power) for name, power in powers.items() if power)


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


def without_unit(text: str) -> str:
    """Return a formula without the known units that end it.

    >>> without_unit("24x cm^2")
    '24x'
    """
    match = UNIT_TAIL.search(text)
    return text[: match.start()].strip() if match and match.start() else text


def as_number(text: str) -> Fraction | None:
    """Return the value of a plain number, with or without thousands separators, a currency sign or a unit; else None.

    >>> as_number("$1,200"), as_number("3 apples"), as_number("1/2")
    (Fraction(1200, 1), Fraction(3, 1), None)
    """
    quantity = read_quantity(text.replace("−", "-"))
    return None if quantity is None or FRACTION.search(text) else quantity.value
