r"""Find the final answer in a completion, and in a reference solution.

An extractor is a function of the completion and the marker that returns the answer's text, or None. The configuration
names the extractors in the order in which they are tried. All run in time linear in the text: model output is hostile.
"""

import re
from collections.abc import Callable, Sequence

from dreamtune.scoring.equivalence import equivalent

MAX_REFERENCE_CHARACTERS = 120  # a longer reference without a marked answer is an essay or a proof
MAX_REFERENCE_WORDS = 12
MAX_BARE_WORDS = 3
SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>")
BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|-?[\d.,]*\d|[A-Za-z](?![A-Za-z]))")
BROKEN_BOX = re.compile(r"^\\?\.?boxed\s*\{\}?|\}$")
OPEN_TAG, CLOSED_TAG = "<answer>", "</answer>"
BROKEN_TAG = re.compile(r"</\w*[>}]?$|(?<=[\w}])>$")
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[^\W\d_]{2,}")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\.\d+")
HEADED_ANSWER = re.compile(r"^[#*\t ]*(?:final[\t ]+)?answer[*\t ]*[:=]\s*(\S.{0,200})$", re.IGNORECASE | re.MULTILINE)
ANNOUNCED = re.compile(r"\banswer\b[*\t ]{0,8}(?:is\b|[:=])[*\t :]{0,8}", re.IGNORECASE)
REASON = re.compile(r",? (?:because|since|as|which|where)\b")
GSM8K_ANSWER = re.compile(r"^####[ \t]*(\S.*)\Z", re.MULTILINE)
PROOF = re.compile(r"\b(?:prove|show) that\b|^\s*prove\b", re.IGNORECASE)
# "Which" asks only in a sentence that ends in a question mark: elsewhere it is a relative pronoun.
ASKS = re.compile(
    r"\b(?:find|determine|compute|calculate|evaluate|what|how (?:many|much|long)|which(?=[^.?!]{1,300}\?))\b",
    re.IGNORECASE,
)
CLOSING_FORMULA = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)


def boxed(completion: str, marker: str) -> str | None:
    r"""Return the content of the last closed `\boxed{…}`, or else of a box without braces, `\boxed 5`.

    A box that holds only another box counts as the inner one.
    """
    found = all_boxed(completion) or BARE_BOX.findall(completion)
    return without_tag(found[-1]) if found else None


def all_boxed(completion: str) -> list[str]:
    r"""Return the content of each outermost closed `\boxed{…}`, in order; of nested boxes, the inner content.

    >>> all_boxed(r"\boxed{\frac{1}{2}} or \boxed{\boxed{7}}, not \boxed{8")
    ['\\frac{1}{2}', '7']
    """
    stack: list[int | None] = []  # per open brace: where a box's content starts, None for any other brace
    spans: list[tuple[int, int]] = []
    for match in BRACE.finditer(completion):
        token = match.group()
        if token == "{" or token.startswith(("\\b", "\\f")):
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
        inner = spans[i - 1] if i and spans[i - 1][0] >= start and end - start <= MAX_REFERENCE_CHARACTERS else None
        content = completion[inner[0] : inner[1]] if inner else completion[start:end]
        if content.strip():
            found.append(content.strip())
    return found


def without_tag(answer: str) -> str:
    """Return the answer without the remains of a broken closing tag.

    >>> without_tag("36>"), without_tag("145</answer}")
    ('36', '145')
    """
    return BROKEN_TAG.sub("", answer.strip()).strip()


def answer_tag(completion: str, marker: str) -> str | None:
    """Return the content of the last <answer> tag, closed or cut off, without the remains of an unclosed box."""
    start = completion.rfind(OPEN_TAG)
    if start < 0:
        return None
    content = without_tag(completion[start + len(OPEN_TAG) :].split(CLOSED_TAG, 1)[0])
    return (BROKEN_BOX.sub("", content).strip() if "boxed" in content else content) or None


def final_answer(completion: str, marker: str) -> str | None:
    """Return the rest of the line after the last `marker`, in any case and spacing.

    >>> final_answer("The final answer is: 7 m\\nSo much for that.", "the final answer is:")
    '7 m'
    """
    pattern = r"\s*".join(re.escape(piece) for piece in re.findall(r"\w+|[^\w\s]", marker))
    return _line_after(re.compile(pattern, re.IGNORECASE), completion)


def announced(completion: str, marker: str) -> str | None:
    """Return the text after the last "answer is" or "Answer:" on its line, up to a reason given for it.

    >>> announced("So the answer is 12, because 3 * 4 = 12.", "")
    '12'
    """
    line = _line_after(ANNOUNCED, completion)
    return None if line is None else REASON.split(line, maxsplit=1)[0].rstrip("*. ") or None


def _line_after(pattern: re.Pattern[str], completion: str) -> str | None:
    """Return the rest of the line after the last match, without a closing formula; None if nothing is left."""
    end = max((match.end() for match in pattern.finditer(completion)), default=None)
    if end is None:
        return None
    line = completion[end:].lstrip().split("\n", 1)[0]
    if closing := CLOSING_FORMULA.search(line):
        line = line[: closing.start()].rstrip().removesuffix(".")
    return line.strip() or None


def last_number(completion: str, marker: str) -> str | None:
    """Return the last number anywhere in the completion."""
    found = NUMBER.findall(completion)
    return found[-1] if found else None


def bare(completion: str, marker: str) -> str | None:
    """Return the completion if it is an answer and nothing else: one short line, a formula or a few words."""
    text = completion.strip()
    if not text or len(text) > MAX_REFERENCE_CHARACTERS or "\n" in text:
        return None
    words = len(WORD.findall(COMMAND.sub(" ", text)))
    is_answer = words == 0 or (words <= MAX_BARE_WORDS and not re.search(r"\d", text))
    return text if is_answer else None


EXTRACTORS: dict[str, Callable[[str, str], str | None]] = {
    "boxed": boxed,
    "answer_tag": answer_tag,
    "final_answer": final_answer,
    "announced": announced,
    "bare": bare,
    "last_number": last_number,
}


def extract(completion: str, extractors: Sequence[str], marker: str) -> tuple[str | None, str | None]:
    """Return the answer that the first successful extractor finds, and that extractor's name; else (None, None)."""
    text = SPECIAL_TOKEN.sub(" ", completion)
    for name in extractors:
        answer = EXTRACTORS[name](text, marker)
        if answer is not None:
            return answer, name
    return None, None


def reference_answer(solution: str, marker: str) -> str | None:
    r"""Return the checkable answer of a reference, or None where it has none (a proof, an essay).

    The answer of a worked solution is the one that it marks: by `\boxed{…}`, by the marker, by GSM8K's `####` or by a
    line "Answer: …". A reference that marks nothing is an answer by itself if it is short and on one line.

    >>> reference_answer("3 * 6 = 18 eggs\n#### 18", "the final answer is:")
    '18'
    """
    text = solution.strip()
    boxes = all_boxed(text)
    if len(set(boxes)) > 1 and not all(equivalent(box, boxes[-1]) for box in boxes[:-1]):
        return None  # ASSUME: several different boxes are several answers; which one is asked for is unknown
    headed, hashed = HEADED_ANSWER.search(text), GSM8K_ANSWER.search(text)
    named = (hashed or headed) and (hashed or headed).group(1).strip()  # type: ignore[union-attr]
    marked: str | None = (boxes[-1] if boxes else None) or final_answer(text, marker) or named
    answer = text if marked is None else marked
    if not answer or "\n" in answer or len(answer) > MAX_REFERENCE_CHARACTERS:
        return None
    return answer if marked is not None or len(WORD.findall(answer)) <= MAX_REFERENCE_WORDS else None


def asks_for_a_proof(question: str) -> bool:
    """Whether the question asks for an argument and no value; a box in its reference then holds the claim itself.

    >>> asks_for_a_proof("Prove that 2 + 2 = 4."), asks_for_a_proof("Show that x > 0 and find x.")
    (True, False)
    """
    return bool(PROOF.search(question)) and not ASKS.search(question)
