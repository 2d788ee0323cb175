r"""Answers in words and letters: multiple choice, yes and no, sentences that state a number, "no solution" for ∅."""

import re
from collections.abc import Callable

from dreamtune.scoring.quantities import Quantity, read_quantity

CANNOT = r"(?:cannot|can't|can ?not|could not)"
KINDS = r"(?:real|integer|possible|such|valid|other|positive|complex|rational|whole|natural|further)"
# What each family of wordings is written as.
FAMILIES = (
    (
        r"\emptyset",
        rf"(?:there (?:is|are|exists?) )?(?:no (?:{KINDS} )*(?:solutions?|answers?|values?(?: of [a-z])?|roots?"
        r"|numbers?|integers?)(?: exists?)?|none)|(?:the )?(?:empty|null)(?: set)?|\\emptyset|\\?\{\s*\\?\}"
        rf"|it has no (?:{KINDS} )*(?:solutions?|roots?)|the (?:equation|system) has no (?:real )?solutions?",
    ),
    ("does not exist", r"(?:the limit |it )?(?:does not|doesn't) exist|d\.?n\.?e|non-?existent|no limit(?: exists)?"),
    ("undefined", r"(?:it is |is )?(?:undefined|not defined|un-defined)"),
    (
        "infinitely many",
        r"(?:there are )?(?:infinitely many|an infinite number(?: of)?|infinite(?: number of)?)"
        r"(?: (?:real )?(?:solutions?|answers?|values?|points?))?",
    ),
    (
        r"(-\infty,\infty)",
        r"(?:the set of )?(?:all|any|every|the)(?: possible)? (?:real(?: number)?s?|real values?)(?: of [a-z]| [a-z])?"
        r"|(?:[a-z]\s*)?(?:\\in\s*)?\\(?:mathbb|mathbf|Bbb)?\s*\{?R\}?"
        r"|(?:[a-z]\s*\\in\s*)?\(\s*-\\infty\s*,\s*\+?\s*\\infty\s*\)"
        r"|[a-z] can be any real number",
    ),
    (
        "cannot be determined",
        rf"(?:it )?{CANNOT} be (?:determined|found|known|calculated|computed)"
        r"|(?:there is )?(?:not enough|insufficient) (?:information|data)(?: given)?"
        r"|undeterminable|impossible to (?:determine|know|say)",
    ),
)
FAMILY = [(re.compile(pattern, re.IGNORECASE), written) for written, pattern in FAMILIES]

VERBS = (
    r"is|are|was|were|be|been|equals?|costs?|has|have|had|needs?|needed|makes?|made|earns?|earned|gets?|got|takes?"
    r"|took|spends?|spent|pays?|paid"
    r"|saves?|saved|sells?|sold|buys?|bought|eats?|ate|drinks?|drank|uses?|used|runs?|ran|reads?|walks?|walked"
    r"|drives?|drove|travels?|weighs?"
    r"|contains?|holds?|totals?|receives?|received|gives?|gave|owes?|owed|requires?|remains?|leaves?|left|becomes?"
    r"|became|wins?|won|scores?|scored"
    r"|lost|loses?|lasts?|lasted|keeps?|kept|collects?|collected|produces?|produced|charges?|grew|grows?|picks?"
    r"|picked|catches|caught|bakes?|baked"
    r"|comes to|amounts to|adds up to|ends up with"
)
OBJECT = (
    r"(?:\s+(?:him|her|it|them|us|me|you|a total of|about|approximately|around|exactly|only|just|now|still|also"
    r"|therefore|to|up|each|at))*"
)
NUMBER = r"\\?[$€£¥₹]?\s?-?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+|\s\d+/\d+)?(?:\\?%)?"
# "The difference is 2 dollars more than …": the number right after the verb is the value.
SENTENCE = re.compile(
    rf"(?P<before>[A-Za-z][A-Za-z\s,'’-]*)\b(?:{VERBS}){OBJECT}\s+(?P<number>{NUMBER})(?P<after>[A-Za-z\s,'’/-]*)",
    re.IGNORECASE,
)
# "5 apples are left", "5 hours is the time".
NUMBER_FIRST = re.compile(
    rf"(?P<number>{NUMBER}(?:\s[a-z]{{3,15}}){{0,3}})\s+(?:is|are|were|was|will be|remain|remains|have"
    rf"|has)\b[A-Za-z\s,'-]*",
    re.IGNORECASE,
)
LABELLED = re.compile(r"[A-Za-z][A-Za-z\s'’()-]{1,60}:\s*(?P<number>\S.*)")
QUALIFIED = re.compile(
    r"\b(?:not|no|never|neither|nor|if|unless|cannot|or|at least|at most|hundred|thousand|million|billion|trillion"
    r"|dozen|between"
    r"|(?:less|more|fewer|greater) than(?=\s*[-\\$\d]))\b|n['’]t",
    re.IGNORECASE,
)
PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’.-]+[^\W\d_]+)*")
OPENING = re.compile(
    r"^(?:(?:so|thus|therefore|it|that|this|he|she|they|there|we)\s+(?:is|are|was|were|will be)|it's|that's|on|in|at"
    r"|by|the|a|an|with|from|to"
    r"|named|called)\s+(?=\S)",
    re.IGNORECASE,
)

OPTION = re.compile(
    r"(?:(?:so|thus|hence|therefore)\b[\s,]*)?(?:it(?:'s|\s+(?:is|must be|has to be|should be|would be))\s+)?"
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|letter|answer|statement)s?\s+(?:is\s+)?)?[(\[]?\s*(?P<letter>[A-Ja-j])\s*"
    r"(?:(?P<stop>[)\].:]+|\s(?=\()|\s[-–—](?=\s)|(?=\s+(?:is\s+(?:the\s+)?(?:only\s+)?(?:correct|right|best|true|answer)"
    r"|only)\b))(?:\s*(?P<rest>\S.*))?)?",
    re.IGNORECASE,
)
SAYING_SO = re.compile(r"(?:is\s+(?:the\s+)?(?:only\s+)?(?:correct|right|best|true|answer)\b.*|only)", re.IGNORECASE)
BETWEEN = r"\s*(?:[,;&/+]|\band\b|,\s*and\b)?\s*"
CHOICES = re.compile(
    rf"(?i:(?:options?|choices?|letters?|both"
    rf"|statements?)\s+)?[(\[]?[A-J][)\]]?(?:{BETWEEN}[(\[]?[A-J][)\]]?)+(?:\s+(?:only|are correct))?"
)
ROMAN = re.compile(
    rf"(?i:(?:options?|statements?|both)\s+)?(?:\(?[IVX]{{1,4}}\)?)(?:{BETWEEN}\(?[IVX]{{1,4}}\)?)*(?P<only>\s+only)?"
)
YES_OR_NO = re.compile(
    r"(yes|no|true|false)\b(?=\s*(?:[.,;:!(–—-]|$|(?:it|they|he|she|there|this|that|we|because|since|as)\b))",
    re.IGNORECASE,
)
INITIALS = {"t": "true", "f": "false", "y": "yes", "n": "no"}


def family(text: str) -> str:
    r"""Return how the family of wordings that a tidied text belongs to is written, or the text itself.

    >>> family("There is no solution"), family("DNE"), family("x is prime")
    ('\\emptyset', 'does not exist', 'x is prime')
    """
    if len(text) > 60:
        return text
    return next((written for pattern, written in FAMILY if pattern.fullmatch(text)), text)


def stated(text: str) -> Quantity | None:
    """Return the quantity of "the difference is 5 dollars", "it takes him 5 hours" or "Total: 5", or None.

    >>> stated("John has 5"), stated("The total is not 5"), stated("June 5")
    (Quantity(value=Fraction(5, 1), unit=''), None, None)
    """
    if labelled := LABELLED.fullmatch(text):
        return None if QUALIFIED.search(text) else read_quantity(labelled["number"]) or stated(labelled["number"])
    sentence = SENTENCE.fullmatch(text)
    if QUALIFIED.search(text):
        return None
    if sentence:
        quantity = read_quantity(f"{sentence['number']}{sentence['after']}".strip())
        return quantity or read_quantity(sentence["number"])
    first = NUMBER_FIRST.fullmatch(text)
    return read_quantity(first["number"]) if first else None


def same_words(given: str, expected: str) -> bool | None:
    """Compare two texts of plain words but for articles, prepositions and "it is" before them; None for other texts.

    >>> same_words("on Monday", "Monday"), same_words("the red ball", "A red ball"), same_words("Monday", "Sunday")
    (True, True, False)
    """
    if not (PLAIN_WORDS.fullmatch(given) and PLAIN_WORDS.fullmatch(expected)):
        return None
    if max(map(len, (given.split()[0], expected.split()[0]))) < 2:
        return None  # letters of a formula
    return _bare(given) == _bare(expected)


def _bare(text: str) -> str:
    for _ in range(3):
        text = OPENING.sub("", text)
    return " ".join(re.split(r"[\s-]+", text.replace("’", "'").casefold()))


def same_choice(given: str, expected: str, same: Callable[[str, str], bool]) -> bool | None:
    """Compare the letters of multiple choice: `(B)`, `B.`, `B) 12`, "option B", "A, C and D"; None for other texts.

    Args:
        given: a tidied answer.
        expected: a tidied reference.
        same: says whether two texts of options mean the same.
    """
    wanted, picked = _option(expected), _option(given)
    if wanted and picked:
        same_letter = wanted["letter"].casefold() == picked["letter"].casefold()
        texts = _text(wanted), _text(picked)
        written_out = all(texts) and ")" not in (wanted["stop"] or "") + (picked["stop"] or "")  # E. coli
        return same_letter and (not written_out or same(texts[1], texts[0]))
    if CHOICES.fullmatch(given) and CHOICES.fullmatch(expected):
        return _same_letters(given, expected)
    if (ROMAN.fullmatch(given) and (only := ROMAN.fullmatch(expected))) and (only["only"] or given.endswith("only")):
        return sorted(re.findall(r"\b[IVX]+\b", given)) == sorted(re.findall(r"\b[IVX]+\b", expected))
    option = wanted or picked
    if option is None:
        return None
    if text := _text(option):  # one side writes the option out, the other gives only its text
        return same(text, expected) if picked else same(given, text)
    # No sentence, list or number is a bare letter; a formula may be equal to one.
    return None if option["letter"].islower() or re.search(r"[=\\+]", given + expected) else False


def _option(text: str) -> re.Match[str] | None:
    """Return the letter of an option and its text, or None; "a dog" is no option."""
    option = OPTION.fullmatch(text)
    return None if option and _text(option) and option["letter"].islower() else option


def _text(option: re.Match[str]) -> str:
    """Return the text of an option, "" if only its letter is given, or said to be right."""
    rest = option["rest"] or ""
    return "" if SAYING_SO.fullmatch(rest) else rest


def _same_letters(given: str, expected: str) -> bool:
    """Whether two lists have the same letters. Letters out of order and without separators may be a word: BAD, DAB."""
    found, wanted = (re.findall(r"\b[A-J]\b|[A-J](?=[A-J])|(?<=[A-J])[A-J]", text) for text in (given, expected))
    if given.isalpha() and expected.isalpha() and wanted != sorted(set(wanted)):
        return given == expected
    return sorted(found) == sorted(wanted)


def same_verdict(given: str, expected: str) -> bool | None:
    """Compare yes, no, true and false, which may be followed by an explanation; None for another reference."""
    wanted, found = YES_OR_NO.match(expected), YES_OR_NO.match(given)
    if wanted is None or wanted.end() != len(expected):
        return None
    said = found[1] if found else INITIALS.get(given.casefold(), "")
    return said.casefold() == wanted[1].casefold()
