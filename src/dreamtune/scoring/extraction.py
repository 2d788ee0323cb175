r"""Find the final answer in a completion.

An extractor is a function of the completion and the marker that returns the answer's text, or None. Those that look for
an announcement (a box, a tag, the marker, words) compete by place: the last announcement in the text is the answer.
Only where nothing is announced do the others follow, in the configured order. All run in time linear in the text: model
output is hostile.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence

from dreamtune.scoring import announcements
from dreamtune.scoring.announcements import Found, says_nothing, without_reason
from dreamtune.scoring.characters import visible
from dreamtune.scoring.displays import block, on_one_line
from dreamtune.scoring.turns import first_turn, without_reasoning
from dreamtune.settings.score import ScoreConfig

MAX_BARE = 120  # characters of an answer that stands alone
MAX_BARE_WORDS = 4
SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>")
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\.\d+")
# A number with what belongs to it: a fraction, a mixed number, a power of ten, a sign of per cent or money.
AMOUNT = re.compile(
    r"(?:\d{1,6}\s?)?-?\\[dtc]?frac\s?\{[^{}\n]{1,30}\}\s?\{[^{}\n]{1,30}\}"
    rf"|\\?[$€£¥₹]?\s?(?:{NUMBER.pattern})(?:\s?/\s?\d+|\s\d{{1,3}}/\d{{1,3}}(?!\d)|[½¼¾⅓⅔])?"
    r"(?:\s?(?:\\times|×|\*|\\cdot)\s?10\s?\^\s?(?:\{-?\d{1,4}\}|-?\d{1,4})|[eE][+-]?\d{1,3}(?!\w))?\s?(?:\\?%|[€₹])?"
)
WORDS = r"(?:[A-Za-z'-]{1,20},?\s+){0,4}"
# "10 apples and 5 pears", "between 5 and 6": the last number of these is not the answer.
SEVERAL = re.compile(
    rf"(?P<all>(?<![\d=.,/])-?\d[\d,.]*\s+{WORDS}(?:and|or|to|&)\s+(?:the |another |only "
    rf"|about )?(?P<last>-?\d[\d,.]*\d|\d))(?P<rest>[^=\d\n]{{0,60}})$"
)


def bare(completion: str) -> str | None:
    """Return the completion if it is an answer and nothing else: one short line, a formula or a few words."""
    text = completion.strip()
    if len(text) <= 2 * MAX_BARE and "\n" in text and block(text) == text:
        text = on_one_line(text)
    if not text or len(text) > MAX_BARE or "\n" in text:
        return None
    words = len(WORD.findall(COMMAND.sub(" ", text)))
    number_first = re.match(r"[-+$€£¥₹\\(~≈]{0,3}\s?\d", text) is not None
    is_answer = words == 0 or (words <= MAX_BARE_WORDS and (number_first or not re.search(r"\d", text)))
    return text if is_answer else None


def last_number(completion: str) -> str | None:
    """Return the last number anywhere, with its fraction or power; of "10 apples and 5 pears" all, not the 5.

    >>> last_number("So there are 5 apples."), last_number("it is 3/4"), last_number("There are 10 cats and 5 dogs.")
    ('5', '3/4', '10 cats and 5')
    """
    last = next(
        iter(deque((match for match in AMOUNT.finditer(completion) if not _negated(completion, match)), 1)), None
    )
    if last is None:
        return None
    line = completion[max(0, completion.rfind("\n", 0, last.start()) + 1, last.start() - MAX_BARE) :][
        : 3 * MAX_BARE
    ].split("\n", 1)[0]
    several = SEVERAL.search(line.rstrip(" .!"))
    return several["all"] if several else last.group().strip()


def _negated(text: str, match: re.Match[str]) -> bool:
    return text[max(0, match.start() - 5) : match.start()].rstrip().endswith(" not")


ANNOUNCERS: dict[str, Callable[[str, str], Found | None]] = {
    "boxed": announcements.boxed,
    "answer_tag": announcements.answer_tag,
    "final_answer": announcements.final_answer,
    "announced": announcements.announced,
}
FALLBACKS: dict[str, Callable[[str], str | None]] = {"bare": bare, "last_number": last_number}


def answer_part(completion: str, score: ScoreConfig, cut: bool = True) -> str:
    """Return the part of a completion in which its answer is looked for: no reasoning, no invented further turns.

    Args:
        completion: the model's text.
        score: the marker and the texts with which another turn begins.
        cut: False leaves the further turns in.
    """
    text = without_reasoning(visible(completion))
    if cut and score.cut:
        text = first_turn(text, score.marker, score.stop_texts or ())
    return SPECIAL_TOKEN.sub(" ", text)


def extract(text: str, extractors: Sequence[str], marker: str) -> tuple[str | None, str | None]:
    r"""Return the answer and the name of the extractor that found it; else (None, None).

    Args:
        text: a completion, see `answer_part`.
        extractors: names of those that count.
        marker: the text after which `final_answer` expects the answer.

    >>> extract(r"\boxed{3} … Therefore, the final answer is: 7", ["boxed", "final_answer"], "the final answer is:")
    ('7', 'final_answer')
    """
    order = [name for name in ANNOUNCERS if name in extractors]
    places = [
        (one.start, -place, one.text) for place, name in enumerate(order) if (one := ANNOUNCERS[name](text, marker))
    ]
    said = [place for place in places if not says_nothing(place[2])]
    if said:
        _, place, answer = max(said)
        return without_reason(answer), order[-place]
    for name in extractors:
        found = FALLBACKS[name](text) if name in FALLBACKS else None
        if found is not None and not _denied(found, places):
            return (without_reason(found) if name == "bare" else found), name
    if places:
        _, place, answer = max(places)
        return answer, order[-place]
    return None, None


def _denied(answer: str, places: list[tuple[int, int, str]]) -> bool:
    """Whether an announcement denies the answer: "the answer is not 5"."""
    return any(text.lower().startswith(("not ", "n't ")) and answer in text for _, _, text in places)
