"""Word n-grams as 64-bit hashes in compact arrays: which rows of one set of texts share n words with another.

Memory is bounded: an index holds at most LIMIT n-grams. Beyond that it keeps those whose hash falls in the lower half,
quarter, … of the range, the same ones for every text, and `kept_share` says so.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

LIMIT = 4_000_000
PENDING = 500_000
MAX_PAIRS = 50
EXCERPT = 200
BASE = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xFF51AFD7ED558CCD)


def words_of(texts: list[str]) -> pl.DataFrame:
    """Return [texts] lists of words, in column `words`: what n-grams are made of.

    A word is a run of letters and digits, its case and Unicode compatibility forms folded: neither punctuation nor
    spelling hides a copy.
    """
    folded = pl.col("text").str.normalize("NFKC").str.to_lowercase()
    return pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(words=folded.str.extract_all(r"\w+"))


def ngram_hashes(texts: list[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hashes uint64, text number int64), both [n-grams], of every run of `n` words of every text.

    The n-grams of a text stand in the order of their first words. A text of fewer than `n` words has none; only an
    exact match can find it.
    """
    found = words_of(texts)
    counts = found.select(pl.col("words").list.len().cast(pl.Int64)).to_series().to_numpy()  # [texts]
    words = found.select(pl.col("words").explode().drop_nulls().hash(0)).to_series().to_numpy()  # [words]
    text_of = np.repeat(np.arange(len(texts)), counts)  # [words]
    size = max(len(words) - n + 1, 0)
    hashes = np.zeros(size, np.uint64)
    for j in range(n):  # a polynomial in the word hashes, modulo 2^64
        hashes = hashes * BASE + words[j : j + size]
    hashes = (hashes ^ (hashes >> np.uint64(33))) * MIX
    inside = text_of[:size] == text_of[n - 1 : n - 1 + size]  # the run does not cross into the next text
    return hashes[inside], text_of[:size][inside]


class NgramIndex:
    """Which row holds an n-gram: the first that was added.

    Attributes:
        hashes: [n-grams] uint64, sorted, unique.
        rows: [n-grams] int64, the row that holds it.
        kept_share: 1.0, or the share of all n-grams that fits into LIMIT.
    """

    def __init__(self, n: int, limit: int = LIMIT) -> None:
        self.n, self.limit, self.kept_share = n, limit, 1.0
        self.hashes, self.rows = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, texts: list[str], rows: np.ndarray) -> None:
        """Add the n-grams of `texts`, which stand in `rows` [texts]."""
        hashes, text_of = ngram_hashes(texts, self.n)
        kept = self._sampled(hashes)
        self._pending.append((hashes[kept], rows[text_of[kept]]))
        self._waiting += len(self._pending[-1][0])
        if self._waiting > max(PENDING, len(self.hashes) // 2):
            self.merge()

    def merge(self) -> None:
        """Take what was added into the sorted arrays; call it before `find`."""
        hashes = np.concatenate([self.hashes, *(h for h, _ in self._pending)])
        rows = np.concatenate([self.rows, *(r for _, r in self._pending)])
        self._pending, self._waiting = [], 0
        self.hashes, first = np.unique(hashes, return_index=True)
        self.rows = rows[first]
        while len(self.hashes) > self.limit:
            self.kept_share /= 2
            kept = self._sampled(self.hashes)
            self.hashes, self.rows = self.hashes[kept], self.rows[kept]

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the position of each hash in the index, -1 where it is not."""
        assert not self._pending, "call merge() first"
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, -1)

    def _sampled(self, hashes: np.ndarray) -> np.ndarray:
        if self.kept_share == 1.0:
            return np.ones(len(hashes), bool)
        return hashes < np.uint64(int(2.0**64 * self.kept_share))


@dataclass(frozen=True)
class Pair:
    """A row that shares words with a row of an index.

    Attributes:
        row, other: their ids.
        words: the row's words from the first n-gram that the other holds as far as the next ones are held, too; folded
            as `words_of` folds them, and cut as an excerpt.
        question: excerpt of the row's question.
    """

    row: int
    other: int
    words: str
    question: str


def excerpt(text: str) -> str:
    """Return the text, or its first EXCERPT characters and an ellipsis."""
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


class Overlap:
    """Counts the rows that share an n-gram with an index, and remembers which n-grams were met.

    Attributes:
        rows: rows that share one.
        pairs: the first MAX_PAIRS of them, each with the row of the index it shares its first n-gram with.
        met: [n-grams] bool, the index's n-grams that some row shares.
    """

    def __init__(self, index: NgramIndex) -> None:
        index.merge()
        self.index, self.rows = index, 0
        self.met = np.zeros(len(index.hashes), bool)
        self.pairs: list[Pair] = []

    def check(self, texts: list[str], rows: np.ndarray, questions: list[str] | None = None) -> np.ndarray:
        """Say which of the `texts` [texts] of `rows` [texts] share an n-gram; the first MAX_PAIRS are remembered.

        `questions` [texts] are the rows' questions, if the texts are something else of them.
        """
        hashes, text_of = ngram_hashes(texts, self.index.n)
        at = self.index.find(hashes)
        found = at >= 0
        self.met[at[found]] = True
        hit = np.unique(text_of[found])
        for text in hit[: MAX_PAIRS - len(self.pairs)]:
            start, stop = np.searchsorted(text_of, (text, text + 1))
            other, words = self._shared(texts[text], at[start:stop])
            question = (texts if questions is None else questions)[text]
            self.pairs.append(Pair(int(rows[text]), other, words, excerpt(question)))
        shares = np.zeros(len(texts), bool)
        shares[hit] = True
        self.rows += len(hit)
        return shares

    def _shared(self, text: str, at: np.ndarray) -> tuple[int, str]:
        """Return the row of the index with the text's first known n-gram, and the words shared with it from there.

        `at` [n-grams of the text] are their positions in the index, -1 where unknown.
        """
        first = int((at >= 0).argmax())
        other = self.index.rows[at[first]]
        same = (at[first:] >= 0) & (self.index.rows[at[first:]] == other)
        run = len(same) if same.all() else int(same.argmin())  # n-grams, one word on from each other
        words = words_of([text])["words"][0][first : first + run - 1 + self.index.n]
        return int(other), excerpt(" ".join(words))

    def touched(self, texts: list[str]) -> np.ndarray:
        """Say which of the indexed side's own `texts` [texts] hold an n-gram that was met."""
        hashes, text_of = ngram_hashes(texts, self.index.n)
        at = self.index.find(hashes)
        touched = np.zeros(len(texts), bool)
        touched[text_of[(at >= 0) & self.met[at]]] = True
        return touched
