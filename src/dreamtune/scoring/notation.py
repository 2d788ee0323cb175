r"""Write an answer in one spelling, whatever its delimiters, blanks, Unicode signs, text commands and wrappers.

Nothing here changes an answer's meaning; `x²` becomes `x^{2}`, `\(5\)` becomes `5`, `\textbf{(B)}` becomes `(B)`.
"""

import re

MAX_CHARACTERS = 300  # a longer answer is compared as text only
WRAPPERS = (("**", "**"), ("`", "`"), ('"', '"'), ("“", "”"), ("‘", "’"), ("'", "'"))
SIGNS = str.maketrans(
    {"−": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∅": r"\emptyset "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "⁄": "/", "％": "%", "，": ",", "．": "."}
    | dict.fromkeys("\u00a0\u2009\u202f\u200b", " ")
)
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
# A backslash after a backslash belongs to a row's end.
MATH = re.compile(r"(?<!\\)\\[()\[\]]|\$\$")
INLINE = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
# \! is a negative space: it joins what stands on its sides.
JOINING = re.compile(r"\\!|(?<=\d)\{,\}(?=\d)|(?<=\d)\\,(?=\d{3}(?!\d))|\\(?:displaystyle|limits)(?![A-Za-z])")
SPACING = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])")
SIZE = re.compile(r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?)(?![A-Za-z])")
TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it|sf)|mbox|operatorname|emph)\s*\{([^{}]*)\}")
EMPTY_SET = re.compile(r"\\varnothing(?![A-Za-z])")
BRACKETS = re.compile(r"\\(begin|end)\{bmatrix\}")
BARE_EXPONENT = re.compile(r"\^\s*(\\[dt]?frac\{[^{}]*\}\{[^{}]*\})")
UNION = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
PERCENT = re.compile(r"(?<=[\d.}])\s*(?:\\?%|(?:percent|per cent|pct)\b\.?)", re.IGNORECASE)
ANNOUNCED = re.compile(r"^(?:[#*\s]|the\b|my\b|final\b|correct\b)*\b(?:answer|solution)\b\s*(?:is\b|[:=])\s*:?", re.I)
MIXED = re.compile(r"(?<=\d)\s+(?=\d+\s*/)")  # the blank of 1 1/2 counts
# A sentence that begins after the answer: "5. Therefore …". After a word the stop may belong to a name (Mr. Smith).
NEXT_SENTENCE = re.compile(r"(?<=[\d$)}\]%])\.\s+[A-Z][a-z].*$", re.DOTALL)


def tidy(answer: str) -> str:
    r"""Return the answer in one spelling, without delimiters, text commands, outer blanks and a closing stop.

    >>> tidy(r"The answer is \(x²\)."), tidy(r"\textbf{(B)} "), tidy("5. Therefore he is right.")
    ('x^{2}', '(B)', '5')
    """
    text = answer[: 4 * MAX_CHARACTERS].translate(SIGNS)
    text = SUPERSCRIPT.sub(lambda match: f"^{{{match.group().translate(SUPERSCRIPTS)}}}", text)
    text = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = NEXT_SENTENCE.sub("", SPACING.sub(" ", JOINING.sub("", SIZE.sub("", MATH.sub(" ", text)))))
    text = INLINE.sub(r" \1 ", text)
    for _ in range(2):  # \textbf{\text{B}}
        text = TEXT_COMMAND.sub(r" \1 ", text)
    text = BARE_EXPONENT.sub(r"^{\1}", BRACKETS.sub(r"\\\1{pmatrix}", EMPTY_SET.sub(r"\\emptyset", text)))
    text = PERCENT.sub(r"\\%", PI.sub(r"\\pi ", UNION.sub(r" \\cup ", text)))
    return _unwrapped(ANNOUNCED.sub("", " ".join(text.split())))


def _unwrapped(text: str) -> str:
    """Return the text without closing punctuation and without quotes, backticks or asterisks around it."""
    for _ in range(3):
        text = text.strip().rstrip(".;,:").strip()
        for opening, closing in WRAPPERS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)]
    if text.startswith("–"):  # a dash in front is a minus; between numbers it may be a range
        text = "-" + text[1:]
    return re.sub(r"^([-+])\s+(?=[\d.])", r"\1", text.strip())


def strict_form(answer: str) -> str:
    """Return the answer as the strict reading compares it: no white space, no closing punctuation, one case.

    >>> strict_form(" 10 Apples. "), strict_form("1 1/2")
    ('10apples', '1&1/2')
    """
    return "".join(MIXED.sub("&", answer).split()).rstrip(".;,:").casefold()
