r"""Find where a text announces an answer: in a box, in an answer tag, after the marker, or in words.

Each finder returns the last place of its kind that says something, as a `Found`. All run in time linear in the text.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from dreamtune.scoring.boxes import BOX, BROKEN_BOX, PLACEHOLDER, last_box, without_tag
from dreamtune.scoring.characters import in_lower_case
from dreamtune.scoring.displays import block

MAX_TRIES = 20  # announcements that are looked at, from the last one backwards
MAX_BEFORE = 120  # characters before "is the answer" that are looked at
TAG_NAMES = r"(?:final[_ ]?)?answer|ans|final"
OPEN_TAG = re.compile(rf"<(?:{TAG_NAMES})>|\[(?:{TAG_NAMES})\]", re.IGNORECASE)
CLOSED_TAG = re.compile(rf"</?(?:{TAG_NAMES})>|\[/(?:{TAG_NAMES})\]", re.IGNORECASE)
FIRST_BOX = re.compile(rf"{BOX}\{{?(?=[^{{}}\n]{{0,300}}[^\s{{}}])")
ANSWER_TURN = re.compile(r"^\W{0,4}A\s?[:：]", re.MULTILINE)
FOLLOWING = re.compile(r"[\s*_`]*([^\s*_`].{0,40})")

MARKUP = r"(?:[*_\t ]|`(?!``)){0,8}"
ADVERB = (
    r"(?:\s{1,3}|,\s?)(?:therefore|thus|then|hence|simply|just|clearly|indeed|now|actually|in fact|finally|of course"
    r"|again|definitely|certainly)\b,?"
)
IS = (
    r"(?:(?:is|are|was|were)(?=n['’]t\b)|(?:is|are|was|were|be|becomes|equals|comes out to(?: be)?|comes to"
    r"|turns out to be|works out to(?: be)?"
    r"|(?:should|must|would|will|has to|can only) be)\b)"
)
VERB = (
    rf"(?:(?:{ADVERB})?\s{{1,3}}{IS}(?:{ADVERB})?(?: (?:given by|equal to|as follows))?|\s{{0,3}}(?:=>|->|[:：=→⇒]))"
    rf"{MARKUP}[:：]?{MARKUP}"
)
OF = r"(?:\s{0,3}\([^()\n]{0,40}\)|,? (?:to|for|of|in|as|that|here|from|we)\b[^.:=\n]{0,80}?)?"
LETTERS = r"\(?[A-J]\)?(?:(?:\s?(?:,|&|and|or)\s?){1,2}\(?[A-J]\)?){0,8}"
GOOD = r"(?:correct|right|best|appropriate|accurate|suitable)"
CHOICE = r"(?:answer|option|choice|alternative|selection|response|statement|letter|pick|one)"
FOREIGN = ("réponse", "respuesta", "resposta", "risposta", "antwort", "lösung", "ответ", "odpowiedź", "답", "정답")
ASIAN = ("答案", "答え", "答", "正解")


class Phrase:
    """A phrase that announces an answer.

    Args:
        words: texts of which one stands in the phrase: where none does, nothing is searched.
        pattern: matches the phrase, in several lines.
        lower: whether the pattern reads the text in lower case.
    """

    def __init__(self, words: Sequence[str], pattern: str, lower: bool = True) -> None:
        self.words, self.lower = words, lower
        self.pattern = re.compile(pattern, re.MULTILINE)

    def matches(self, text: str, lowered: str) -> Iterator[re.Match[str]]:
        """Yield the matches in a text, which is given as it is and in lower case."""
        if any(word in lowered for word in self.words):
            yield from self.pattern.finditer(lowered if self.lower else text)


# What follows one of these is the answer.
BEFORE_ANSWER = (
    # "The answer is", "Final answer:", "the answer to the question is therefore", "Ans.:". The letters come first,
    # because a pattern that begins with them is searched fast.
    Phrase(["ans"], rf"ans(?<!\wans)(?:(?:wer)?s?\b\.?{MARKUP}{OF}{MARKUP}{VERB}|\.(?=\s*\S))"),
    Phrase(
        FOREIGN,
        rf"(?:{'|'.join(FOREIGN)}){MARKUP}(?:finale?|correcte?|correcta)?{MARKUP}(?:\s(?:est|es|é|è|ist|lautet|to|은|는)\b|\s?[:：=—])",
    ),
    Phrase(ASIAN, rf"(?:{'|'.join(ASIAN)})\s?(?:应该|應該)?(?:是|为|為|は|[:：=]){MARKUP}[:：]?"),
    # "### Final answer" on a line of its own.
    Phrase(
        ["answer"],
        r"^(?:#{1,6}[\t ]{0,3}|\*{2}|__|[\t ]{0,4}(?=final))\**(?:the )?(?:final |correct )?answer[^\w\n]{0,6}$",
    ),
    # "A: 7", which is no option as in "A: 7" over "B: 8".
    Phrase(["a:"], r"^(?:[*_]{0,3})a[*_]{0,3}:[*_\t ]{0,8}(?=[^\n]{1,30}$)(?![^\n]*\n\s{0,3}b\s?[:.)])"),
    Phrase(["####"], r"####[\t ]{0,4}(?=[-+$€£¥₹\\({.]{0,3}\s?\d)(?!\d{1,2}[.)]\s+[a-z])"),
    # "The correct option is Paris", "my choice: B".
    Phrase(GOOD[3:-1].split("|"), rf"\b{GOOD}\s{{1,3}}(?:answer\s)?{CHOICE}s?{MARKUP}{VERB}"),
    Phrase(
        ["option", "choice", "selection", "pick"],
        rf"\b(?i:option|choice|selection|pick){MARKUP}(?:\s(?:is|must be|should be)\b|:){MARKUP}"
        rf"(?=(?i:option |choice )?{LETTERS}(?:\W|$))",
        lower=False,
    ),
)
# These hold the answer: "D is correct", "I would choose D", "so, option D."
AROUND_ANSWER = (
    Phrase(
        GOOD[3:-1].split("|"),
        rf"(?<![\w(])(?P<letters>{LETTERS})\)?\s(?:is|are|must be|would be|should be)\s"
        r"(?:therefore |thus |clearly |indeed |both |all )?"
        rf"(?:the\s)?(?:only |most |single )?{GOOD}\b(?!ly)(?!\s(?:if|only|when)\b)",
        lower=False,
    ),
    Phrase(
        ["choos", "chose", "pick", "select", "go with", "going with", "opt for"],
        r"\b(?i:choose|choosing|chose|pick|picking|select|selecting|go with|going with|opt for)\s"
        r"(?i:(?:option|choice|answer|letter)s?\s)?"
        r"(?P<letters>\([A-J]\)|[A-HJ](?:(?:\s?(?:,|&|and)\s?){1,2}[A-J])*)(?=[.,;:!)*\s]{0,4}(?:$|[.,;:!]|because|since|as\b|for\b|\())",
        lower=False,
    ),
    Phrase(["option", "choice"], rf"\b(?i:option|choice)s?\s(?P<letters>{LETTERS})(?=[.!*\t ]{{0,4}}$)", lower=False),
)
# What stands before it is the answer: "42 is the answer."
AFTER_ANSWER = Phrase(
    ["the ", "my ", "our "],
    rf"\s(?:is|are|was|must be|would be)(?:{ADVERB})?\s(?:the|my|our)\s(?:(?:final|correct|right|best|only)\s){{0,2}}"
    r"(?:answer|solution|option|choice|result)\b(?!\s?(?:is|are|to which|:|=))",
)
SENTENCE = re.compile(r"[.!?;:]\s+|\n|,\s+(?=[^()]*$)")
CONNECTIVE = re.compile(
    r"^(?:(?:so|thus|therefore|hence|then|and|but|now|finally|clearly|i think|option|choice|answer)\b[\s,:]*)+",
    re.IGNORECASE,
)
PRONOUN = re.compile(
    r"\W*(?:(?:this|that|these|those|such)\b.*|it|which|what|who|he|she|here|there|the (?:above|latter|former).*"
    r"|one of .*)?\W*",
    re.IGNORECASE,
)

# Words after "the answer is" that say nothing of the answer.
EMPTY = re.compile(
    r"(?:not\b|n['’]t\b|in (?:the|its|terms|units|this|simplest|degrees|radians|cents|dollars|meters|minutes)\b"
    r"|as (?:follows|above|below)"
    r"|(?:shown|given|stated|provided|found|obtained|written|expressed|above|below|correct|incorrect|right|wrong"
    r"|reasonable|consistent"
    r"|verified|valid|clear|obvious|different|boxed|simplified|already|also|always|still|yet|so|to (?:be|the|this|find)"
    r"|expected to|supposed to"
    r"|determined|calculated|computed|rounded|of the form|the same as|yes or no)\b(?!\s*:))",
    re.IGNORECASE,
)
DOUBTED = re.compile(
    r"\b(?:wrong|incorrect|not the|previous|isn['’]t the|an?|guessed|estimated|any|(?:check\w*|verif\w+|confirm\w*"
    r"|test) (?:our|the|my|this))"
    r"\s+(?:final\s+)?$",
    re.IGNORECASE,
)
REASON = re.compile(
    r"(?:\s{0,3},|\s{0,3};|\s{1,3}[-–—])\s{0,3}(?:not|rather|instead|but not|and not|as opposed to|which|because|since"
    r"|where|given that|meaning|that is|i\.e\.|so)\b"
    r"|\s{0,3},\s{1,3}(?:as|for)\b(?!\s(?:well|many|much|follows))"
    r"|\s{0,3};\s{1,3}[^;\n]{1,40}\b(?:is|are|was)\s(?:wrong|incorrect|not)\b"
    r"|\s{1,3}(?:because|since|rather than|instead of|and not|but not|as opposed to)\b|(?<=[\d)}$%])\s{1,3}not\b"
    r"|\s{0,3}\((?:because|since|as|not|which|i\.e\.|rounded|see|from|where|assuming|if)\b",
    re.IGNORECASE,
)
CORRECTED = re.compile(
    r"not\b[^.;,\n]{1,40}?(?:,?\s+but(?:\s+rather)?|,\s*(?:it is|it's|rather|instead))\s+", re.IGNORECASE
)
CLOSING_FORMULA = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """The text of an announced answer, and where in the completion it starts."""

    text: str
    start: int


def boxed(completion: str, marker: str) -> Found | None:
    r"""Find the content of the last `\boxed{…}`, closed or not, or of a box without braces, `\boxed 5`.

    A box that holds only another box counts as the inner one; `\boxed{5}, \boxed{6}` is a list.
    """
    box = last_box(completion)
    return Found(without_tag(box.content), box.start) if box else None


def answer_tag(completion: str, marker: str) -> Found | None:
    """Find the content of the last <answer> tag, closed or cut off, without the remains of an unclosed box."""
    last = next(iter(deque(OPEN_TAG.finditer(completion), maxlen=1)), None)
    if last is None:
        return None
    content = without_tag(CLOSED_TAG.split(completion[last.end() :], maxsplit=1)[0])
    content = BROKEN_BOX.sub("", content).strip() if "boxed" in content else content
    return Found(content, last.end()) if content and not PLACEHOLDER.fullmatch(content[:40]) else None


def final_answer(completion: str, marker: str) -> Found | None:
    """Find the line or the displayed formula after the last `marker`, in any case and spacing.

    >>> final_answer("The final answer is: 7 m\\nSo much for that.", "the final answer is:").text
    '7 m'
    """
    return _last_after(deque(_spaced(marker).finditer(completion), maxlen=MAX_TRIES), completion)


@lru_cache(maxsize=8)
def _spaced(marker: str) -> re.Pattern[str]:
    words = re.findall(r"\w+|[^\w\s]", marker)
    return re.compile(r"\s*".join(map(re.escape, words)) or "(?!)", re.IGNORECASE)


def announced(completion: str, marker: str) -> Found | None:
    """Find the answer that words announce last, up to a reason given for it.

    >>> announced("So the answer is 12, because 3 * 4 = 12.", "").text, announced("B is the correct option.", "").text
    ('12', 'B')
    """
    lowered = in_lower_case(completion)
    after = _last(BEFORE_ANSWER, completion, lowered)
    meant = [m for m in after if not DOUBTED.search(lowered[max(0, m.start() - 30) : m.start()])]
    found = [_last_after(meant, completion), _letters(completion, lowered), _before(completion, lowered)]
    last = max((one for one in found if one), key=lambda one: one.start, default=None)
    if last is None:
        return None
    text = without_reason(last.text).rstrip(". ")
    text = text.strip("*") if text.startswith("**") else text.removesuffix("**").rstrip(". ")
    return Found(text, last.start) if text else None


def _last(phrases: Sequence[Phrase], text: str, lowered: str) -> list[re.Match[str]]:
    last = (match for phrase in phrases for match in deque(phrase.matches(text, lowered), MAX_TRIES))
    return sorted(last, key=re.Match.end)


def _last_after(matches: Sequence[re.Match[str]], text: str) -> Found | None:
    """Return what follows the last match that something follows; what says nothing of the answer only if all do."""
    empty = None
    for match in list(reversed(matches))[:MAX_TRIES]:
        following = text[match.end() : match.end() + 2_000]
        shown = block(following.lstrip("*_ \t")) if following.strip() else ""
        if closing := CLOSING_FORMULA.search(shown):
            shown = shown[: closing.start()].rstrip().removesuffix(".")
        shown = CORRECTED.sub("", CLOSED_TAG.split(shown, maxsplit=1)[0].strip(), count=1)
        if not re.search(r"[^\W_]|\\[A-Za-z({\[]|[$\[{(∅∞]", shown):
            continue
        found = Found(shown, match.end() + len(following) - len(following.lstrip("*_ \t\n")))
        if not EMPTY.match(shown.lstrip("*_ ")):
            return found
        empty = empty or found
    return empty


def _letters(completion: str, lowered: str) -> Found | None:
    """Return the letters of multiple choice that are said to be right last."""
    matches = _last(AROUND_ANSWER, completion, lowered)
    for match in reversed(matches):
        if match["letters"] != "I" and not match["letters"].startswith(("I or", "I and")):
            return Found(match["letters"], match.start())
    return None


def _before(completion: str, lowered: str) -> Found | None:
    """Return what stands before the last "is the answer" in its sentence, unless that is a pronoun."""
    for match in reversed(_last([AFTER_ANSWER], completion, lowered)):
        text = SENTENCE.split(completion[max(0, match.start() - MAX_BEFORE) : match.start()])[-1]
        text = CONNECTIVE.sub("", text.strip()).strip("*_ ")
        if not PRONOUN.fullmatch(text):
            return Found(text, match.start())
    return None


def without_reason(line: str) -> str:
    """Return the answer without what is said to explain it or to set it apart.

    >>> without_reason("5, not 6"), without_reason("5 apples, which is 2 more than 3"), without_reason("does not exist")
    ('5', '5 apples', 'does not exist')
    """
    shorter = REASON.split(line, maxsplit=1)[0].strip()
    return shorter or line


def says_nothing(text: str) -> bool:
    """Whether the words after "the answer is" say nothing of the answer: "correct", "shown above", "not 5"."""
    return EMPTY.match(text) is not None


def announces(text: str, lowered: str, marker: str) -> int:
    """Return where the first announcement of an answer is followed by something; the text's length if there is none.

    Args:
        text: a completion.
        lowered: the same, see `in_lower_case`.
        marker: the text that announces an answer.
    """
    firsts = [
        match.end() for phrase in (*AROUND_ANSWER, AFTER_ANSWER) for match in islice(phrase.matches(text, lowered), 1)
    ]
    kinds = [pattern.finditer(text) for pattern in (FIRST_BOX, OPEN_TAG, ANSWER_TURN, _spaced(marker))]
    for matches in (*kinds, *(phrase.matches(text, lowered) for phrase in BEFORE_ANSWER)):
        for match in islice(matches, MAX_TRIES):
            following = FOLLOWING.match(text, match.end())
            if following and not says_nothing(following[1]):
                firsts.append(following.start(1) + 1)
                break
    return min(firsts, default=len(text))
