r"""Write the characters of a text in one way: Unicode forms, invisible marks, digits of all scripts, signs, HTML.

`½` becomes `1/2`, `x²` becomes `x^{2}`, a decomposed `é` the composed one, `٣` becomes `3`, `θ` becomes `\theta`,
`&lt;` becomes `<`; marks of the writing direction and of no width go. All in time linear in the text.
"""

import html
import re
import unicodedata
from functools import cache

GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau upsilon phi chi psi omega"
CAPITALS = "Gamma Delta Theta Xi Pi Sigma Phi Psi Omega"  # the others look like Latin letters
# Before Unicode's own forms are asked, which make ℝ a plain R.
SIGNS = (
    {
        "−": "-",
        "‐": "-",
        "‑": "-",
        "﹣": "-",
        "×": r"\times ",
        "✕": r"\times ",
        "÷": r"\div ",
        "±": r"\pm ",
        "∓": r"\mp ",
    }
    | dict.fromkeys("·⋅∙•", r"\cdot ")
    | {
        "∞": r"\infty ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "Ø": r"\emptyset ",
        "∈": r"\in ",
        "∉": r"\notin ",
    }
    | {"≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≡": r"\equiv ", "∠": r"\angle "}
    | dict.fromkeys("≈≃≅∼", r"\approx ")
    | {"→": r"\to ", "⇒": r"\Rightarrow ", "∧": r"\land ", "∨": r"\lor ", "¬": r"\neg ", "∖": r"\setminus "}
    | {"ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}"}
    | {"⁄": "/", "∕": "/", "∶": ":", "∣": "|", "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle "}
    | {
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "∫": r"\int ",
        "∑": r"\sum ",
        "∏": r"\prod ",
    }
    | {"。": ".", "、": ",", "٫": ".", "٬": ",", "′": "'", "’": "'", "ʼ": "'", "´": "'", "º": "°"}
    | dict.fromkeys("\u00a0\u2009\u202f\u2007\u2008\u200a\u3000", " ")
)
SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
SUBSCRIPT = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋]+")
ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{2,5}|#x[\dA-Fa-f]{2,4});")
NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def visible(text: str) -> str:
    """Return the text with composed letters, and without marks that show nothing (direction, no width).

    >>> visible("\\u202acafe\\u0301\\u202c"), visible("6\\u200b")
    ('café', '6')
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text).translate({ord(mark): None for mark in set(text) if _shows_nothing(mark)})


@cache
def _shows_nothing(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def in_lower_case(text: str) -> str:
    """Return the text in lower case, each character in its place: those that would become two stay as they are."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def plain(text: str) -> str:
    r"""Return the text in plain characters and LaTeX commands.

    >>> plain("1½ ＋ x²"), plain("θ ≤ ６０°"), plain("a&lt;b")
    ('1 1/2 + x^{2}', '\\theta  \\le  60°', 'a<b')
    """
    text = ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    if text.isascii():
        return text
    text = SUPERSCRIPT.sub(lambda match: f"^{{{_usual(match.group())}}}", visible(text))
    text = SUBSCRIPT.sub(lambda match: f"_{{{_usual(match.group())}}}", text)
    return NOT_ASCII.sub(lambda match: _written(match.group()), re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text))


def _usual(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


@cache
def _written(character: str) -> str:
    """Return how one character is written: by SIGNS, as a Greek letter's command, as a digit, or in its usual form."""
    if character in SIGNS:
        return SIGNS[character]
    usual = _usual(character).replace("⁄", "/")
    if len(usual) == 1 and not usual.isascii():
        name = unicodedata.name(usual, "")
        letter = name.rpartition(" ")[2].lower()
        if name == f"GREEK SMALL LETTER {letter.upper()}" and (letter in GREEK.split() or letter == "lamda"):
            return f"\\{letter.replace('lamda', 'lambda')} "
        if name == f"GREEK CAPITAL LETTER {letter.upper()}" and letter.capitalize() in CAPITALS.split():
            return f"\\{letter.capitalize()} "
        if unicodedata.category(usual) == "Nd":
            return str(unicodedata.decimal(usual))
    return usual if len(usual) == 1 or character.isalnum() or unicodedata.decomposition(character) else character
