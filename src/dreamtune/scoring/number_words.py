"""English number words, and digits with a word of size, as digits: "twenty-five" is 25, "2.5 thousand" is 2500."""

import re
from decimal import Decimal

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VALUES = (
    {word: value for value, word in enumerate(ONES + TEENS)}
    | {word: 10 * tens for tens, word in enumerate(TENS, start=2)}
    | {"a": 1, "an": 1, "fourty": 40}
)
SIZES = {"dozen": 12, "hundred": 100, "thousand": 1000, "lakh": 10**5, "million": 10**6, "crore": 10**7}
SIZES |= {"billion": 10**9, "trillion": 10**12}
PARTS = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
}
PARTS |= {"ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100, "thousandth": 1000}

ONE, TEEN, TEN = "|".join(ONES[1:]), "|".join(TEENS), "|".join([*TENS, "fourty"])
UNDER_100 = rf"(?:(?:{TEN})(?:[\s-]+(?:{ONE})(?![a-z]))?|{TEEN}|{ONE}|zero)"
UNDER_1000 = rf"(?:(?:{UNDER_100}|an?)[\s-]+hundred(?:[\s-]+(?:and\s+)?{UNDER_100}(?![a-z]))?|{UNDER_100})"
BIG = "thousand|lakh|million|crore|billion|trillion|dozen"
WHOLE = (
    rf"(?:(?:{UNDER_1000}|an?(?=\s+(?:{BIG})))(?:[\s-]+(?:{BIG})s?(?:,?\s+(?:and\s+)?{UNDER_1000}(?![a-z]))?){{0,4}})"
)
SHARE = rf"(?:{'|'.join(PARTS)})s?"
WORDS = re.compile(
    rf"(?<![\w-])(?:(?P<mixed>{WHOLE}|\d+)\s+and\s+(?P<more>{UNDER_100}|an?|\d+)[\s-]+(?P<mixed_share>{SHARE})"
    rf"|(?P<top>{UNDER_100}|an?|\d+)[\s-]+(?P<share>{SHARE})|(?P<half>half(?=\s*$|\s+(?:of\s+)?(?:an?|the)\b))"
    rf"|(?P<whole>{WHOLE}))(?![\w-])",
    re.IGNORECASE,
)
SIZED = re.compile(
    rf"(?<![\w.])(?P<number>\d[\d,]*(?:\.\d+)?)\s*(?P<sizes>(?:\s*(?:{'|'.join(SIZES)})s?\b)+)(?!\s+of\s+\d)",
    re.IGNORECASE,
)
SHORT_SIZED = re.compile(
    r"(?<=[$€£¥₹])\s?(?P<number>\d[\d,]*(?:\.\d+)?)\s?(?P<size>k|m|mn|b|bn)(?![A-Za-z])", re.IGNORECASE
)
SHORT = {"k": 3, "m": 6, "mn": 6, "b": 9, "bn": 9}


def in_digits(text: str) -> str:
    """Return the text with its number words, and numbers with a word of size, as digits.

    >>> in_digits("one hundred and five apples"), in_digits("two thirds"), in_digits("two and a half hours")
    ('105 apples', '2/3', '2 1/2 hours')
    >>> in_digits("2.5 thousand"), in_digits("$5 million"), in_digits("five and six"), in_digits("someone")
    ('2500', '$5000000', '5 and 6', 'someone')
    """
    if re.search(r"\d", text):
        text = SHORT_SIZED.sub(lambda match: _times(match["number"], 10 ** SHORT[match["size"].lower()]), text)
        text = SIZED.sub(lambda match: _times(match["number"], _size(match["sizes"])), text)
    return WORDS.sub(_digits, text) if re.search(r"[A-Za-z]{3}", text) else text


def _size(words: str) -> int:
    size = 1
    for word in words.lower().split():
        size *= SIZES[word.removesuffix("s")]
    return size


def _times(number: str, size: int) -> str:
    """Return the product in decimals.

    >>> _times("2.5", 1000), _times("1.23456", 1000)
    ('2500', '1234.56')
    """
    product = Decimal(number.replace(",", "")) * size
    return f"{product.normalize():f}"


def _digits(match: re.Match[str]) -> str:
    """Return the number that WORDS matched; "a" and "an" by themselves are articles."""
    if match["half"]:
        return "1/2"
    share = match["share"] or match["mixed_share"]
    if share is None:
        return str(_value(match["whole"]))
    bottom = PARTS[share.lower().removesuffix("s").replace("halve", "half")]
    if match["mixed"]:
        return f"{_value(match['mixed'])} {_value(match['more'])}/{bottom}"
    if share.lower() in ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth") and match[
        "top"
    ].lower() not in ("a", "one"):
        return match.group()  # "twenty third" and "5 fifth" are no fractions
    return f"{_value(match['top'])}/{bottom}"


def _value(words: str) -> int:
    """Return the value of a number in words or in digits.

    >>> _value("two hundred and five thousand"), _value("a dozen"), _value("7")
    (205000, 12, 7)
    """
    total, group = 0, 0
    for word in re.findall(r"[a-z]+|\d+", words.lower()):
        if word.isdigit():
            group += int(word)
        elif word == "hundred":
            group = 100 * max(group, 1)
        elif word.removesuffix("s") in SIZES:
            total, group = total + max(group, 1) * SIZES[word.removesuffix("s")], 0
        elif word != "and":
            group += VALUES[word]
    return total + group
