r"""Boxes around answers: `\boxed{…}`, `\fbox{…}`, `\framebox{…}`, closed, unclosed or without braces, and lists."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

MAX_CHARACTERS = 300  # of a box's content that is looked at
MAX_LIST = 20  # boxes in a list
MAX_BETWEEN = 60  # characters between two boxes of a list
BOX = r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s{0,8}(?:\[[^\[\]{}]{0,20}\]\s?){0,2}"
BRACE = re.compile(rf"(?P<box>{BOX}\{{)|\\[{{}}]|[{{}}]")
BARE_BOX = re.compile(rf"{BOX}(\\[dt]?frac\{{[^{{}}]*\}}\{{[^{{}}]*\}}|-?[\d.,]*\d|[A-Za-z](?![A-Za-z]))")
# What may stand between the boxes of a list.
BETWEEN = re.compile(
    r"(?:[\s$,;~]|\\[,;:! )(\]\[]|\\q?quad|\\text\s?\{|\}|\band\b|\bor\b|\b(?:possible )?(?:values?|answers?"
    r"|solutions?) (?:is|are)\b|&|\*)*"
)
BROKEN_BOX = re.compile(r"^\\?\.?boxed\s*\{\}?|\}$")
BROKEN_TAG = re.compile(r"</\w*[>}]?$|(?<=[\w}])>$")
PLACEHOLDER = re.compile(r"\W*(?:(?:your|the|my)?\s*(?:final )?answer(?: here)?|result)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Box:
    """The content of a box, and where in the text the content starts and the box ends."""

    content: str
    start: int
    end: int


def closed_boxes(text: str) -> list[Box]:
    r"""Return the outermost closed boxes that hold something, in order; of nested boxes the inner content.

    >>> [box.content for box in closed_boxes(r"\boxed{\frac{1}{2}} or \boxed{\boxed{7}}, not \boxed{8")]
    ['\\frac{1}{2}', '7']
    """
    stack: list[int | None] = []  # per open brace: where a box's content starts, None for any other brace
    spans: list[tuple[int, int]] = []
    for match in BRACE.finditer(text):
        token = match.group()
        if token == "{" or match["box"]:
            stack.append(None if token == "{" else match.end())
        elif token == "}" and stack:
            start = stack.pop()
            if start is not None:
                spans.append((start, match.start()))
    found = []
    for i, (start, end) in enumerate(spans):
        following = spans[i + 1] if i + 1 < len(spans) else None
        if following and following[0] < start:  # within a box that closes later
            continue
        inner = spans[i - 1] if i and spans[i - 1][0] >= start and end - start <= MAX_CHARACTERS else None
        content = text[inner[0] : inner[1]] if inner else text[start:end]
        if content.strip():
            found.append(Box(content.strip(), start, end + 1))
    return found


def last_box(text: str) -> Box | None:
    r"""Return the last box that holds something; boxes with nothing but commas, "and" or "or" between are one list.

    >>> last_box(r"\boxed{1}. No: \boxed{5} and \boxed{6}").content, last_box(r"so $\boxed{12 apples").content
    ('5 and 6', '12 apples')
    """
    boxes = [box for box in closed_boxes(text) if not PLACEHOLDER.fullmatch(box.content[:40])]
    candidates = [box for box in (*boxes[-1:], _last_unclosed(text), _last_bare(text)) if box is not None]
    last = max(candidates, key=lambda box: box.start, default=None)
    return _with_those_before(text, boxes) if boxes and last is boxes[-1] else last


def _last_bare(text: str) -> Box | None:
    last = next(iter(deque(BARE_BOX.finditer(text), maxlen=1)), None)
    return Box(last[1], last.start(1), last.end()) if last else None


def _last_unclosed(text: str) -> Box | None:
    """Return the last box if its brace never closes: its content is the rest of its line, up to a dollar or a tag."""
    start = -1
    for match in re.finditer(rf"{BOX}\{{", text):
        start = match.end()
    if start < 0:
        return None
    depth = 1
    for match in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group()[-1], 0) if not match.group().startswith(("\\{", "\\}")) else 0
        if depth == 0:
            return None
    line = re.split(r"\n|\$|</|\\[\])]", text[start : start + MAX_CHARACTERS].strip(), maxsplit=1)[0]
    content = without_tag(line)
    return None if not content or PLACEHOLDER.fullmatch(content) else Box(content, start, start + len(line))


def _with_those_before(text: str, boxes: Sequence[Box]) -> Box:
    """Return the last box, joined with the boxes right before it into a list."""
    contents = [boxes[-1].content]
    for before, after in islice(zip(boxes[-2::-1], boxes[::-1], strict=False), MAX_LIST):
        between = text[before.end : _opening(text, before.end, after.start)]
        if (
            len(between) > MAX_BETWEEN
            or not re.search(r",|;|\band\b|\bor\b|&", between)
            or not BETWEEN.fullmatch(between)
        ):
            break
        contents += [" or " if re.search(r"\bor\b", between) else " and " if "and" in between else ", ", before.content]
    return Box("".join(reversed(contents)), boxes[-1].start, boxes[-1].end)


def _opening(text: str, start: int, end: int) -> int:
    """Return where the box whose content starts at `end` opens, or `end` itself if that is far from `start`."""
    near = text[start:end] if end - start <= 2 * MAX_BETWEEN else ""
    return max([start + near.rfind(name) for name in (r"\boxed", r"\fbox", r"\framebox") if name in near] or [end])


def without_tag(answer: str) -> str:
    """Return the answer without the remains of a broken closing tag.

    >>> without_tag("36>"), without_tag("145</answer}")
    ('36', '145')
    """
    return BROKEN_TAG.sub("", answer.strip()).strip()
