"""Which training rows share an n-gram with a set of questions, in question, answer or reasoning."""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from dreamtune.contamination.ngrams import NgramIndex, Overlap, Pair, met_share

PARTS = ("question", "answer", "reasoning")
WHOLE = 0.95  # share of a question's n-grams in answers and reasonings above which they restate it
CHARACTERS = 4_000_000  # of the texts that are compared at a time: some 50 bytes of memory are needed for each
ENOUGH = 8  # n-grams that a question must have for this: a shorter one may be a phrase that many questions use


class RowOverlap:
    """Compares training rows with an index of questions. Call `look_up` with all training rows, in batches.

    Attributes:
        index: n-grams of the questions.
        rows: number of training rows that share an n-gram.
        by_part: the overlap of the training rows' questions, answers and reasonings.
    """

    def __init__(self, index: NgramIndex) -> None:
        self.index, self.rows = index, 0
        self.by_part = {part: Overlap(index) for part in PARTS}

    def look_up(self, questions: list[str], answers: list[str], reasonings: list[str], ids: np.ndarray) -> np.ndarray:
        """Return which training rows share an n-gram with a question of the index, [rows] bool.

        Args:
            questions, answers, reasonings: [rows] texts.
            ids: [rows] int64, the rows' example ids.
        """
        shares = np.zeros(len(ids), bool)
        for part, texts in zip(PARTS, (questions, answers, reasonings), strict=True):
            for rows in slices(texts):
                shares[rows] |= self.by_part[part].look_up(texts[rows], ids[rows], questions[rows])
        self.rows += int(shares.sum())
        return shares

    def touched(self, texts: list[str]) -> np.ndarray:
        """Return which of the index's questions share an n-gram with a training row, [texts] bool."""
        return met_share(self.index, self._met(PARTS), texts)[0] > 0

    def restated(self, texts: list[str]) -> np.ndarray:
        """Return which of the index's questions stand as a whole in answers or reasonings, [texts] bool."""
        share, count = met_share(self.index, self._met(PARTS[1:]), texts)
        return (share >= WHOLE) & (count >= ENOUGH)

    def pairs(self) -> list[tuple[str, Pair]]:
        """Return the first pairs of each part, the longest overlaps first.

        Short overlaps are often a phrase that many questions of the kind end with.
        """
        pairs = [(part, pair) for part, overlap in self.by_part.items() for pair in overlap.pairs]
        return sorted(pairs, key=lambda pair: -len(pair[1].words))

    def _met(self, parts: tuple[str, ...]) -> np.ndarray:
        met: np.ndarray = np.logical_or.reduce([self.by_part[part].met for part in parts])
        return met


def slices(texts: list[str]) -> Iterator[slice]:
    """Yield slices that cover all texts, each with at most CHARACTERS characters or one text."""
    start, before = 0, 0
    for end, upto in enumerate(accumulate(map(len, texts))):
        if end > start and upto - before > CHARACTERS:
            yield slice(start, end)
            start, before = end, upto - len(texts[end])
    yield slice(start, len(texts))
