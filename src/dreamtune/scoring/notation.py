r"""Write an answer in one spelling, whatever its delimiters, blanks, Unicode signs, text commands and wrappers.

Nothing here changes an answer's meaning; `x²` becomes `x^{2}`, `\(5\)` becomes `5`, `\textbf{(B)}` becomes `(B)`,
`twenty-five` becomes `25`, `≈5` becomes `5`.
"""

import re

from dreamtune.scoring.characters import plain, visible
from dreamtune.scoring.displays import on_one_line
from dreamtune.scoring.number_words import in_digits

MAX_CHARACTERS = 300  # a longer answer is compared as text only
WRAPPERS = (
    *(("**", "**"), ("*", "*"), ("__", "__"), ("_", "_"), ("`", "`"), ('"', '"'), ("“", "”"), ("‘", "'"), ("'", "'")),
    *(("«", "»"), ("„", "“"), ("「", "」"), ("<<", ">>"), ("<", ">"), ("''", "''"), ("``", "''")),
)
TAG = re.compile(
    r"</?(?:b|i|u|p|em|strong|span|div|br|code|mark|math|font|center|sub|sup|answer|ans|final|result|boxed"
    r"|s)(?:\s[^<>]{0,80})?/?>",
    re.IGNORECASE,
)
RAISED = re.compile(r"<su(?P<kind>[pb])>([^<>]{1,20})</su[pb]>", re.IGNORECASE)
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
ROOT_IN_BRACKETS = re.compile(r"(?:\\|(?<![A-Za-z\\]))sqrt\s*\(([^()]*)\)")
PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
INFINITY = re.compile(r"(?<![\\A-Za-z])(?:oo|infinity|inf)(?![A-Za-z])", re.IGNORECASE)
STARS = re.compile(r"^([^*]*[^*^{])\*+\s*$")  # that end a text, have no partner, and are no superscript
BOLD = re.compile(r"(?<![\w)}\]*])\*\*(?=\S)([^*\n]+)\*\*(?!\*)")
REALS = re.compile(r"\\(?:mathbf|Bbb)\s*\{?R\}?(?![A-Za-z])")
POWER = re.compile(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({-])")
TIMES = re.compile(r"(?<=\d)\s*(?:[xX]|\*)\s*(?=10\s*\^)")
# A backslash after a backslash belongs to a row's end.
MATH = re.compile(r"(?<!\\)\\[()\[\]]|\$\$")
INLINE = re.compile(r"(?<!\\)\$([^$]*[^$\\])\$")
# \! is a negative space: it joins what stands on its sides.
JOINING = re.compile(r"\\!|(?<=\d)\{,\}(?=\d)|(?<=\d)\\,(?=\d{3}(?!\d))|(?<=\d)'(?=\d{3}(?!\d))")
SPACING = re.compile(
    r"(?<!\\)\\[,;:> ]|~(?=\s*\S)(?<!^~)|\\(?:q?quad|enspace|thinspace|hfill|newline|par|null|strut)(?![A-Za-z])"
)
SILENT = re.compile(
    r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|textstyle|limits|nolimits|nonumber|notag|tiny|small"
    r"|normalsize|large|Large"
    r"|LARGE|huge|Huge|bf|it|rm|sf|tt|em|bfseries|itshape|boldsymbol|bm|ensuremath|centering|noindent|relax|protect"
    r"|unit|qty)(?![A-Za-z])"
    r"|\\(?:tag|label|hspace|vspace|phantom|hphantom|vphantom)\*?\s*\{[^{}]*\}"
    r"|\\(?:text|page)?color\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}|\\colorbox\s*\{[^{}]*\}"
    r"|\\fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}"
)
# Commands that show their argument as it is.
SHOWN = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|sc|sl|md|up|normal)?|math(?:rm|bf|it|sf|tt|normal|cal|scr)|mbox|hbox|fbox|boxed"
    r"|framebox"
    r"|operatorname\*?|emph|underline|underset\s*\{[^{}]*\}|uuline|textnormal|num|si|SI|ce|bm|boldsymbol"
    r"|mathop)\s*(?=\{)"
)
EMPTY_SET = re.compile(r"\\varnothing(?![A-Za-z])")
BRACKETS = re.compile(r"\\(begin|end)\{(?:bmatrix|Bmatrix|smallmatrix|matrix)\}")
FRACTION_DIGITS = re.compile(r"\\[dtc]?frac\s*(?:(\d)\s*(\d)|(\d)\s*\{([^{}]*)\}|\{([^{}]*)\}\s*(\d))")
BARE_EXPONENT = re.compile(r"\^\s*(\\[dt]?frac\{[^{}]*\}\{[^{}]*\})")
UNION = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
RELATIONS = (
    (re.compile(r"\\(?:geqslant|geqq|ge|geq)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\(?:leqslant|leqq|le|leq)(?![A-Za-z])|<=(?!>)"), r"\\le "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:backslash|setminus|smallsetminus)(?![A-Za-z])"), r"\\setminus "),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10} "),
    (re.compile(r"\\(?:lt|gt)(?![A-Za-z])"), lambda match: "<" if match.group() == r"\lt" else ">"),
)
PERCENT = re.compile(r"(?<=[\d.}])\s*(?:\\?%|(?:percent|per cent|pct)\b\.?)", re.IGNORECASE)
RECURRING = re.compile(r"(?<![\d.])(\d*)\.(\d{2,40})\s*(?:\.\.\.+|\\(?:l|c)?dots(?![A-Za-z]))")
DOTTED = re.compile(r"(?<![\d.])(\d*\.\d*)(?:\\dot\s*\{?(\d)\}?|\((\d{1,12})\))(?!\d)")
ANNOUNCED = re.compile(
    r"^(?:[#*\s]|the\b|my\b|final\b|correct\b)*\b(?:answer|solution|result|ans)\b\.?\s*(?:is\b|[:=])\s*:?(?=\s*\S)",
    re.I,
)
# Words and signs before a value that leave it as it is: "approximately 5", "≈5", "#5", "= 5", "exactly 5".
LEAD = re.compile(
    r"^(?:(?:#+|~+|=|:|…|\.{3}|\*+(?=\s)|\\(?:approx|sim|simeq|cong)(?![A-Za-z])|(?:is |are )?(?:approx\.(?!\w)"
    r"|(?:approximately|approx|about|around|roughly"
    r"|circa|exactly|precisely|equal to|equals)\b)|(?:only|just|simply|a total of"
    r"|the number)\b(?=\s*[-\\$\d(]))\s*)+(?=\S)",
    re.IGNORECASE,
)
NEGATIVE = re.compile(r"^(?:minus|negative)\s+(?=[\d\\$.])", re.IGNORECASE)
MIXED = re.compile(r"(?<=\d)\s+(?=\d+\s*/)")  # the blank of 1 1/2 counts
# A sentence that begins after the answer: "5. Therefore …". After a word the stop may belong to a name (Mr. Smith).
NEXT_SENTENCE = re.compile(
    r"(?:(?<=[\d$)}\]%])\.\s+(?:[A-Z][a-z]|[AI]\s)|(?<=[a-z]{3})\.\s+(?:Therefore|So|Thus|Hence|This|That|It|The|We"
    r"|He|She|They|There|Because|Since"
    r"|In|Note|Explanation|Question|Let|Now|Here)\b).*$",
    re.DOTALL,
)


def tidy(answer: str) -> str:
    r"""Return the answer in one spelling, without delimiters, text commands, outer blanks and a closing stop.

    >>> tidy(r"The answer is \(x²\)."), tidy(r"\textbf{(B)} "), tidy("5. Therefore he is right.")
    ('x^{2}', '(B)', '5')
    >>> tidy(r"$\textcolor{red}{\frac12}$"), tidy("≈ ½"), tidy("*twenty-five apples*"), tidy(r"$\boxed{x")
    ('\\frac{1}{2}', '1/2', '25 apples', 'x')
    """
    text = plain(answer[: 4 * MAX_CHARACTERS])
    text = TAG.sub(" ", RAISED.sub(lambda match: f"{'^' if match['kind'] in 'pP' else '_'}{{{match[2]}}}", text))
    text = _commands(on_one_line(text))
    text = NEXT_SENTENCE.sub("", SPACING.sub(" ", JOINING.sub("", MATH.sub(" ", text))))
    text = INLINE.sub(r" \1 ", text)
    text = _spelled(ANNOUNCED.sub("", " ".join(text.split())))
    for _ in range(2):  # "approximately **twenty-five**"
        text = LEAD.sub("", _unwrapped(text))
    return NEGATIVE.sub("-", in_digits(text))


def _commands(text: str) -> str:
    """Return the text without the commands that only change how it looks."""
    text = REALS.sub(r"\\mathbb{R}", ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text))
    text = _without_shown(SILENT.sub(" ", text)) if "\\" in text else text
    text = STARS.sub(r"\1", BOLD.sub(r"\1", text))
    for pattern, written in RELATIONS:
        text = pattern.sub(written, text)
    return TIMES.sub(r"\\times ", POWER.sub("^", text))


def _without_shown(text: str) -> str:
    r"""Return the text without commands that show their argument, and without their braces.

    >>> _without_shown(r"\mathbf{\frac{1}{2}} \text{cm}")
    ' \\frac{1}{2}   cm '
    """
    pieces, drop, end = list[str](), list[bool](), 0
    commands = {match.end(): match.start() for match in SHOWN.finditer(text)}
    for brace in re.finditer(r"\\[{}]|[{}]", text):
        start = brace.start()
        if brace.group() == "{":
            drop.append(start in commands)
            if drop[-1]:
                pieces += [text[end : commands[start]], " "]
                end = brace.end()
        elif brace.group() == "}" and drop and drop.pop():
            pieces += [text[end:start], " "]
            end = brace.end()
    return "".join(pieces) + text[end:]


def _spelled(text: str) -> str:
    """Return the text with fractions, roots, powers, recurring decimals, π and ∞ in one spelling."""
    text = ROOT_IN_BRACKETS.sub(r"\\sqrt{\1}", text)
    text = FRACTION_DIGITS.sub(lambda match: "\\frac{{{}}}{{{}}}".format(*filter(None, match.groups())), text)
    text = BARE_EXPONENT.sub(r"^{\1}", BRACKETS.sub(r"\\\1{pmatrix}", EMPTY_SET.sub(r"\\emptyset", text)))
    text = PERCENT.sub(r"\\%", INFINITY.sub(r"\\infty ", PI.sub(r"\\pi ", UNION.sub(r" \\cup ", text))))
    text = DOTTED.sub(lambda match: rf"{match[1]}\overline{{{match[2] or match[3]}}}", RECURRING.sub(_recurring, text))
    return " ".join(text.split())


def _recurring(match: re.Match[str]) -> str:
    r"""Return 0.333... as 0.\overline{3}, if the decimals end in a period twice, or in one digit three times."""
    digits = match[2]
    for length in range(1, len(digits) // 2 + 1):
        period, times = digits[-length:], 3 if length == 1 else 2
        if digits.endswith(period * times):
            while digits.endswith(period * 2):
                digits = digits[:-length]
            return rf"{match[1]}.{digits[:-length]}\overline{{{period}}}"
    return match.group()


def _unwrapped(text: str) -> str:
    """Return the text without closing punctuation, quotes or asterisks around it, and stray brackets."""
    for _ in range(4):
        text = _without_strays(re.sub(r"(?<=[^\W\d_]{2})[!?]+$", "", text.strip()).rstrip(".;,:\\&").strip())
        for opening, closing in WRAPPERS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                inside = text[len(opening) : -len(closing)]
                text = inside if opening not in inside and closing not in inside else text
        if re.fullmatch(r"\[\s*-?[\d.]+\s*\]", text) or _grouped(text):
            text = text[1:-1]
    if text.startswith(("–", "—", "‒")):  # a dash in front is a minus; between numbers it may be a range
        text = "-" + text[1:]
    return re.sub(r"^([-+])\s+(?=[\d.])", r"\1", text.strip())


def _grouped(text: str) -> bool:
    """Whether one pair of braces holds the whole text, and no list, which would be a set."""
    if not (text.startswith("{") and text.endswith("}")) or re.search(
        r",|\\(?:choose|over|atop|color)(?![A-Za-z])", text
    ):
        return False
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _without_strays(text: str) -> str:
    r"""Return the text without brackets at its ends that have no partner, and without a lone dollar sign at its end.

    Any bracket may close any other: intervals do so.

    >>> _without_strays("5}"), _without_strays("(1,2]"), _without_strays("5$"), _without_strays(r"18}\)")
    ('5', '(1,2]', '5', '18')
    """
    if text.count("$") % 2 and not text.endswith("\\$"):
        text = re.sub(r"\s*\$$|^\$(?!\s?[\d.])\s*", "", text)
    stray, stack = set[int](), list[int]()
    for i, character in enumerate(text):
        if character in "([{":
            stack.append(i)
        elif character in ")]}":
            if stack:
                stack.pop()
            else:
                stray.add(i)
    stray.update(stack)
    start, end = 0, len(text)
    while end > start and (end - 1 in stray or text[end - 1] == " "):
        end -= 2 if end - 1 in stray and text[start : end - 1].endswith("\\") else 1
    while start < end and (start in stray or text[start] == " "):
        start += 1
    return text[start:end]


def strict_form(answer: str) -> str:
    """Return the answer as the strict reading compares it: no white space, no closing punctuation, one case.

    >>> strict_form(" 10 Apples. "), strict_form("1 1/2")
    ('10apples', '1&1/2')
    """
    return "".join(MIXED.sub("&", visible(answer)).split()).rstrip(".;,:").casefold()
