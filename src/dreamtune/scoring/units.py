"""Units of measure: their sizes and dimensions, and which words after a number are units."""

import re
from collections import Counter
from fractions import Fraction

TABLE = {  # dimension: unit = size, in the dimension's first unit
    "length": "m meter metre=1 mm millimeter millimetre=1/1000 cm centimeter centimetre=1/100 "
    "km kilometer kilometre=1000 in inch inches=127/5000 ft foot feet=381/1250 yd yard=1143/1250 mi mile=201168/125",
    "time": "s sec second=1 min minute=60 h hr hrs hour=3600 day=86400 week wk=604800 fortnight=1209600 month=2629800 "
    "year yr=31557600 decade=315576000 century centuries=3155760000",
    "mass": "g gram gramme=1 mg milligram=1/1000 kg kilogram kilo=1000 oz ounce=28349523125/1000000000 "
    "lb lbs pound=45359237/100000",
    "volume": "L l liter litre=1 ml mL milliliter millilitre=1/1000 gallon gal=473176473/125000000 "
    "quart=473176473/500000000 pint=473176473/1000000000",
    "dollars": "dollar USD $ buck=1 cent ¢=1/100",
    "euros": "euro EUR €=1",
    "pounds sterling": "GBP £=1",
    "rupees": "rupee INR ₹ Rs=1",
    "angle": "degree °=1",
    "angle in radians": "rad radian=1",
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
UNIT_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
UNIT_TOKEN = re.compile(r"([A-Za-z¢]+)\.?(?:\^\{?(-?\d)\}?|(?<=[a-z])(\d))?")
SINGLE_LETTERS = frozenset("msghLlNJWVKACF")  # units of one letter, believed only in compounds and after a blank
# ASSUME: a word after a number is a unit, unless it changes the number or is a formula's letter.
NOT_UNITS = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|pi|sqrt|or|and|not|plus|minus|over|(?:less|more|fewer"
    r"|greater) than|squared"
    r"|cubed|factorial|mod|halves|thirds|quarters|tenths|hundredths|thousandths|to|[ei])\b"
    r"|\btimes\b(?!\s*(?:$|(?:as|more|larger|bigger|greater|faster|longer|older|the|a|per|that)\b))|\b(?:less"
    r"|fewer)\b(?=\s*$)",
    re.IGNORECASE,
)
# Units that end a formula, such as 24\\pi cm^2; longer than a letter, or a letter with a power after a blank.
TAIL_NAMES = "|".join(sorted((n for n in UNITS if len(n) > 1 and n.isalpha()), key=len, reverse=True))
TAIL_UNIT = rf"(?:(?:{TAIL_NAMES}|unit|square|cubic|sq|cup|radian)s?\b\.?|m(?=\s*\^))(?:\s*\^\s*\{{?-?\d\}}?)?"
UNIT_TAIL = re.compile(rf"(?<=[\d)}}\s])(?<![\\A-Za-z])(?:{TAIL_UNIT}(?:\s*/\s*|\s+per\s+|\s+|$))+$")


def unit_of(text: str, spaced: bool) -> str | None:
    r"""Return the unit that a text after a number is, or None if it is no unit.

    >>> unit_of("m^2", True), unit_of("x^2", True), unit_of("apples", True), unit_of("more than 3", True)
    ('m^2', None, 'apples', None)

    Args:
        text: what stands after the number.
        spaced: whether a blank stands between: 12 m is a measure, 12m may be algebra.
    """
    text = re.sub(r"(?<=[a-z]{2})\s+(?:squared|cubed)\b", "", text)
    unit = re.sub(r"\s*\^\s*", "^", UNIT_FRACTION.sub(r"\1 / \2", text.strip())).lstrip("/ ")
    tokens = re.split(r"[\s/*]+|(?<=[a-z])-(?=[a-z])|\\cdot", unit)
    for token in filter(None, tokens):
        found = UNIT_TOKEN.fullmatch(token)
        if found is None:
            return None
        # 12 m and 12 m^2 are measures, 5 x^2 is algebra; 12m^2 is left to math-verify.
        letter = found[1] in SINGLE_LETTERS and (len(tokens) > 1 or spaced)
        if len(found[1]) == 1 and token not in ("a", "¢") and not letter:
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
        power = direction * int((found and (found[2] or found[3])) or 1)
        powers[known[0]] += power
        size *= known[1] ** power
    return size, frozenset((name, power) for name, power in powers.items() if power)


def without_unit(text: str) -> str:
    """Return a formula without the known units that end it.

    >>> without_unit("24x cm^2")
    '24x'
    """
    match = UNIT_TAIL.search(text)
    return text[: match.start()].strip() if match and match.start() else text
