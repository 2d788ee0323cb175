"""Find questions that give their answer away: they end in it, or hold the worked reasoning.

Such a question comes from a column that was joined with the answer, or from a prompt that shows the solution. Trained
on, it teaches to copy; asked, it measures nothing.

What a question says of its answer by right is no giveaway: options to choose from, "yes or no?", a number that happens
to occur in it. So the answer counts at the very end of the question only, and there only after a marker such as
"Answer:", as a sentence or line of its own behind a whole one, or if it is long.
"""

import re

import numpy as np
import polars as pl

from dreamtune.contamination.copies import final
from dreamtune.contamination.questions import normalise

ENDS, HOLDS = "ends_in_answer", "holds_reasoning"
WHAT = {ENDS: "end in their answer", HOLDS: "hold their reasoning"}
CLOSING = " \n\r\t.!,;:$*`)}]\"'\u201d"  # what may stand behind an answer
MARKER = re.compile(r"(?:\b(?:answer|solution|result|ans)(?:\s+is)?\s*[:=]?|####|\\boxed)$", re.IGNORECASE)
OPENING = " $*`([{\"'\u201c"  # what may stand before an answer
OPTION = re.compile(r"(?:^|[\s(])[A-Za-z0-9][.)]$")
SENTENCE = 4  # words of a sentence; what is shorter before the answer may be another option
LONG = 12  # words of an answer that no question ends in by chance
PIECE = 40  # characters by which a reasoning is looked for in a question
SHORTEST = 20  # characters of a piece, and of a reasoning that is looked for
SHARE = 0.8  # of the pieces that stand in a question which holds the reasoning


def gives_away(questions: list[str], reasonings: list[str], answers: list[str]) -> np.ndarray:
    """Return how each question gives its answer away, "" if it does not, [rows] object.

    >>> questions = ["What is 3 + 4? 7", "How many are 3 + 4? Answer: 7.", "Is 4 + 3 even or odd?", "Take 3 from 7"]
    >>> gives_away(questions, [""] * 4, ["7", "7", "odd", "7"]).tolist()
    ['ends_in_answer', 'ends_in_answer', '', '']

    Args:
        questions, reasonings, answers: [rows] texts; a row without reasoning has "".
    """
    found = np.full(len(questions), "", object)
    found[[row for row, texts in enumerate(zip(questions, reasonings, strict=True)) if holds(*texts)]] = HOLDS
    short = [final(answer) or "" for answer in answers]
    for candidates in (answers, short):
        for row in np.flatnonzero(_end_in(questions, candidates)):
            if announced(questions[row], candidates[row]):
                found[row] = ENDS
    return found


def announced(question: str, answer: str) -> bool:
    """Whether a question that ends in the answer says it there as an answer, and not as an option or by chance.

    >>> announced("What is 3 + 4? 7", "7"), announced("Which is larger?\\n5\\n7", "7"), announced("Round to 7", "7")
    (True, False, False)
    """
    end, stated = len(question.rstrip(CLOSING)), answer.rstrip(CLOSING).lstrip(OPENING)
    head = question[: end - len(stated)].rstrip(OPENING)
    before = head.rstrip().rstrip(OPENING).rstrip()
    if MARKER.search(before):
        return True
    if before.endswith((":", ",", ";")) or OPTION.search(before):  # what follows is given, not answered
        return False
    if before.endswith("?") or len(stated.split()) >= LONG:
        return True
    apart = before.endswith((".", "!")) or head.endswith("\n")
    return apart and len(re.split(r"[.?!\n]", before[:-1])[-1].split()) >= SENTENCE


def _end_in(questions: list[str], answers: list[str]) -> np.ndarray:
    """Return which questions end in their answer, apart from case and punctuation, as words of its own, [rows] bool."""
    schema = dict.fromkeys(("question", "answer"), pl.String)
    texts = pl.DataFrame({"question": questions, "answer": answers}, schema=schema)
    question, answer = (pl.col(name).str.strip_chars_end(CLOSING).str.to_lowercase() for name in schema)
    answer = answer.str.strip_chars_start(OPENING)
    ends = question.str.ends_with(answer) & (answer != "") & (question != answer)
    glued = question.str.head(-answer.str.len_chars().cast(pl.Int64)).str.contains(r"[\p{L}\p{N}.,\-/]$")
    return texts.select((ends & ~glued).alias("ends")).to_series().to_numpy()


def holds(question: str, reasoning: str) -> bool:
    """Whether a question holds most of its reasoning, compared in pieces of PIECE characters.

    >>> holds("Hint: 8 * 5 = 40. 40 + 7 = 47. What is 8 * 5 + 7?", "8 * 5 = 40. 40 + 7 = 47.")
    True
    """
    if not SHORTEST <= len(reasoning) <= 2 * len(question):  # most of a longer one does not fit into the question
        return False
    within, text = normalise(question), normalise(reasoning)
    pieces = [text[start : start + PIECE] for start in range(0, max(len(text) - SHORTEST, 0) + 1, PIECE)]
    return sum(piece in within for piece in pieces) >= SHARE * len(pieces)
