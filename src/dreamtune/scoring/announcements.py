r"""Find where a text announces an answer: in a box, in an answer tag, after the marker, or in words.

Each finder returns the last place of its kind that says something, as a `Found`. All run in time linear in the text.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from dreamtune.scoring.boxes import BOX, PLACEHOLDER, last_box, without_tag
from dreamtune.scoring.displays import block
from dreamtune.scoring.phrases import AFTER_ANSWER, AROUND_ANSWER, BEFORE_ANSWER, Phrase

MAX_TRIES = 20  # announcements that are looked at, from the last one backwards
MAX_BEFORE = 120  # characters before "is the answer" that are looked at
TAG_NAMES = r"(?:final[_ ]?)?answer|ans|final"
OPEN_TAG = re.compile(rf"<(?:{TAG_NAMES})>|\[(?:{TAG_NAMES})\]", re.IGNORECASE)
CLOSED_TAG = re.compile(rf"</?(?:{TAG_NAMES})>|\[/(?:{TAG_NAMES})\]", re.IGNORECASE)
FIRST_BOX = re.compile(rf"{BOX}\{{?(?=[^{{}}\n]{{0,300}}[^\s{{}}])")
ANSWER_TURN = re.compile(r"^\W{0,4}A\s?[:：]", re.MULTILINE)
FOLLOWING = re.compile(r"[\s*_`]*([^\s*_`].{0,40})")
BROKEN_BOX = re.compile(r"^\\?\.?boxed\s*\{\}?|\}$")

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
    if not marker.strip():
        return re.compile("(?!)")
    return re.compile(r"\s*".join(re.escape(piece) for piece in re.findall(r"\w+|[^\w\s]", marker)), re.IGNORECASE)


def announced(completion: str, marker: str) -> Found | None:
    """Find the answer that words announce last, up to a reason given for it.

    >>> announced("So the answer is 12, because 3 * 4 = 12.", "").text, announced("B is the correct option.", "").text
    ('12', 'B')
    """
    lowered = in_lower_case(completion)
    after = sorted((match for phrase in BEFORE_ANSWER for match in _last_of(phrase, completion, lowered)), key=_end)
    found = [
        _last_after(
            [match for match in after if not DOUBTED.search(lowered[max(0, match.start() - 30) : match.start()])],
            completion,
        ),
        _letters(completion, lowered),
        _before(completion, lowered),
    ]
    last = max((one for one in found if one), key=lambda one: one.start, default=None)
    if last is None:
        return None
    text = without_reason(last.text).rstrip(". ")
    text = text.strip("*") if text.startswith("**") else text.removesuffix("**").rstrip(". ")
    return Found(text, last.start) if text else None


def in_lower_case(text: str) -> str:
    """Return the text in lower case, each character in its place: those that would become two stay as they are."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _end(match: re.Match[str]) -> int:
    return match.end()


def _last_of(phrase: Phrase, text: str, lowered: str) -> deque[re.Match[str]]:
    return deque(phrase.matches(text, lowered), maxlen=MAX_TRIES)


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
    matches = sorted((match for phrase in AROUND_ANSWER for match in _last_of(phrase, completion, lowered)), key=_end)
    for match in reversed(matches):
        if match["letters"] != "I" and not match["letters"].startswith(("I or", "I and")):
            return Found(match["letters"], match.start())
    return None


def _before(completion: str, lowered: str) -> Found | None:
    """Return what stands before the last "is the answer" in its sentence, unless that is a pronoun."""
    for match in reversed(_last_of(AFTER_ANSWER, completion, lowered)):
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
