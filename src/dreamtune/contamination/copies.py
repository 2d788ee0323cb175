"""Find the training rows that ask a held-out question again: nearly the same text, and the same answer.

Two questions are copies if they belong to one template, have the same names and numbers, share most of their words and
pairs of neighbouring words, and their answers do not differ. So a changed word, swapped sentences, or another way to
write a number or a formula hide no copy; another name or number makes it a new question of the same template.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from dreamtune.contamination.ngrams import MAX_PAIRS, Pair, excerpt
from dreamtune.contamination.templates import similarity
from dreamtune.contamination.words import NAME, NUMBER, Words, read_words

WORDS = 0.7  # Jaccard similarity of two copies' words, each as often as it occurs
PLAIN_WORDS = 0.85  # the same where neither names nor numbers tell two questions apart
NEIGHBOURS = 0.5  # Jaccard similarity of their pairs of neighbouring words
MOST = 10  # held-out questions that a training row is compared with
EXAMPLES = 5  # pairs with another answer that are named
SHORT = 60  # characters of an answer that is compared as a whole
MARKED = re.compile(r"####\s*(.+)|(?:final answer|answer) is:?\s*(.+)", re.IGNORECASE)
Texts = Callable[[Iterable[int]], dict[int, str]]


class Copies:
    """Compares training rows with held-out questions. Call `look_up` with all training rows, in batches.

    Attributes:
        train, asked: example ids of each pair of copies, a training row's and a held-out question's.
        other_answer: pairs with exactly the same words and another answer; one of the two answers may be wrong.
        pairs: the first MAX_PAIRS pairs of copies, to be shown.
    """

    def __init__(self, asked: np.ndarray, identities: np.ndarray, train: np.ndarray, question: Texts, answer: Texts):
        """Read the texts of the held-out questions that a training row may be a copy of.

        Args:
            asked: [asked] int64, example ids of the held-out questions.
            identities: [asked] uint64, theirs, from `Templates`.
            train: [rows] uint64, the identities of all training rows.
            question, answer: return the texts of held-out questions by their ids.
        """
        wanted = np.isin(identities, train)
        order = np.argsort(identities[wanted], kind="stable")
        self._asked, self._identities = asked[wanted][order], identities[wanted][order]
        self._questions, self._answers = (texts(self._asked.tolist()) for texts in (question, answer))
        self._read = _Read(read_words([self._questions[i] for i in self._asked.tolist()]))
        self.train: list[int] = []
        self.asked: list[int] = []
        self.other_answer: list[list[int]] = []
        self.pairs: list[Pair] = []

    def look_up(self, identities: np.ndarray, questions: list[str], answers: list[str], ids: np.ndarray) -> np.ndarray:
        """Return which training rows are a copy of a held-out question, [rows] bool.

        Args:
            identities: [rows] uint64, from `Templates`.
            questions, answers: [rows] texts.
            ids: [rows] int64, the rows' example ids.
        """
        low, high = (np.searchsorted(self._identities, identities, side) for side in ("left", "right"))
        near = np.flatnonzero(high > low)
        read = _Read(read_words([questions[row] for row in near]))
        copies = np.zeros(len(ids), bool)
        for place, row in enumerate(near):
            for other in range(low[row], min(high[row], low[row] + MOST)):
                asked, texts = int(self._asked[other]), (read.of(place), self._read.of(other))
                if differ(answers[row], self._answers[asked]):
                    if texts[0] == texts[1]:
                        self.other_answer.append([int(ids[row]), asked])
                elif same_text(*texts):
                    copies[row] = True
                    self._note(int(ids[row]), asked, questions[row])
        return copies

    def of(self, asked: np.ndarray) -> list[int | None]:
        """Return the first training row that is a copy of each question, None without one; `asked` [n], example ids."""
        first = dict(zip(reversed(self.asked), reversed(self.train), strict=True))
        return [first.get(int(i)) for i in asked]

    def counts(self, asked: str) -> dict[str, Any]:
        """Return how many rows are concerned: training rows, and questions under the name `asked`."""
        pairs = {"train_rows": len(set(self.train)), asked: len(set(self.asked))}
        return pairs | {"other_answer": len(self.other_answer), "other_answer_examples": self.other_answer[:EXAMPLES]}

    def shown(self, asked: str) -> list[dict[str, Any]]:
        """Return the first pairs of copies with excerpts; `asked` is what the held-out side is called."""
        return [
            {"train": pair.row, asked: pair.other, "text": pair.words, "train_question": pair.question}
            | {f"{asked}_question": excerpt(self._questions[pair.other])}
            for pair in self.pairs
        ]

    def _note(self, train: int, asked: int, question: str) -> None:
        self.train.append(train)
        self.asked.append(asked)
        if len(self.pairs) < MAX_PAIRS:
            self.pairs.append(Pair(train, asked, "nearly the same text", excerpt(question)))


class _Read:
    """Texts taken apart for `same_text`."""

    def __init__(self, words: Words) -> None:
        self.words, self.starts = words, words.starts()

    def of(self, text: int) -> tuple[list[int], list[int]]:
        """Return the hashes of a text's words, and the places of its names and numbers among them."""
        own = slice(self.starts[text], self.starts[text + 1])
        return self.words.hashes[own].tolist(), np.flatnonzero(np.isin(self.words.kinds[own], (NAME, NUMBER))).tolist()


def same_text(a: tuple[list[int], list[int]], b: tuple[list[int], list[int]]) -> bool:
    """Whether two questions with the same names and numbers share enough words to be the same text.

    All names and numbers but one must stand beside the same word, before or behind them, in both: "Tom has 4 and finds
    5" is another question than "Tom has 5 and finds 4".

    Args:
        a, b: the hashes of a question's words, in order, and the places of its names and numbers.
    """
    (first, places), (second, _) = a, b
    if first == second:
        return True
    counts = Counter(first), Counter(second)
    shared, all_words = (counts[0] & counts[1]).total(), (counts[0] | counts[1]).total()
    if shared < (WORDS if places else PLAIN_WORDS) * all_words:
        return False
    pairs, others = list(pairwise(first)), set(pairwise(second))
    moved = sum(others.isdisjoint(pairs[max(place - 1, 0) : place + 1]) for place in places)
    return moved <= 1 and similarity(set(pairs), others) >= NEIGHBOURS


def differ(one: str, other: str) -> bool:
    """Whether two reference answers are seen to differ; False where one is a text that shows no short answer.

    >>> differ("so we get \\\\boxed{\\\\frac{1}{12}}", "1 / 12"), differ("72", "#### 1,072"), differ("yes", "No")
    (False, True, True)
    """
    ends = [end for end in (final(one), final(other)) if end is not None]
    if len(ends) < 2:
        return False
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d)(?:,|\{,\})(?=\d{3})", "", end)) for end in ends]
    if any(numbers):
        return [float(n) for n in numbers[0]] != [float(n) for n in numbers[1]]
    plain = [re.sub(r"[^\w+*/=<>()\[\]-]|_", "", end).casefold() for end in ends]
    return plain[0] != plain[1]


def final(answer: str) -> str | None:
    """Return the short answer at the end of a reference: the last box, the text after a marker, or a short text."""
    if (start := answer.rfind(r"\boxed{")) >= 0:
        depth, begin = 1, start + len(r"\boxed{")
        for end in range(begin, len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[end], 0)
            if not depth:
                return answer[begin:end]
    if marked := list(MARKED.finditer(answer)):
        return marked[-1].group(1) or marked[-1].group(2)
    return answer.strip() if len(answer.strip()) <= SHORT else None
