"""Find the rows of one set of texts that share a run of n words, an n-gram, with another set.

N-grams are kept as 64-bit hashes in compact arrays. Memory is bounded, because an index holds at most LIMIT n-grams: if
there are more, it keeps those whose hash is in the lower half (quarter, …) of the range, and `kept_share` says which
share that is. The choice depends on the n-gram alone, so it is the same for every text.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from dreamtune.contamination.hashing import BASE, MIX

LIMIT = 4_000_000  # n-grams of an index
PENDING = 500_000  # n-grams added before they are sorted into the index
MAX_PAIRS = 50  # overlapping pairs that are kept to be shown
EXCERPT = 200  # characters


def words_of(texts: list[str]) -> pl.DataFrame:
    """Return the words of each text, as a column `words` of lists, [texts].

    A word is a run of letters and digits in lower case and Unicode's compatibility form (NFKC), so that neither
    punctuation nor notation hides a copy.

    >>> words_of(["Find x², then STOP!"])["words"].to_list()
    [['find', 'x2', 'then', 'stop']]
    """
    folded = pl.col("text").str.normalize("NFKC").str.to_lowercase()
    return pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(words=folded.str.extract_all(r"\w+"))


def ngram_hashes(texts: list[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of every run of `n` words, and the number of the text it stands in.

    N-grams do not cross texts; within a text they are in order. A text of fewer than `n` words has none, so only an
    exact match can find it.

    Returns:
        Hashes, [n-grams] uint64; text numbers, [n-grams] int64.

    >>> hashes, text_of = ngram_hashes(["one two three", "two", "two three"], n=2)
    >>> text_of.tolist()
    [0, 0, 2]
    >>> bool(hashes[1] == hashes[2])
    True
    """
    found = words_of(texts)
    counts = found.select(pl.col("words").list.len().cast(pl.Int64)).to_series().to_numpy()  # [texts]
    words = found.select(pl.col("words").explode().drop_nulls().hash(0)).to_series().to_numpy()  # [words]
    text_of = np.repeat(np.arange(len(texts)), counts)  # [words]
    size = max(len(words) - n + 1, 0)
    hashes = np.zeros(size, np.uint64)
    for j in range(n):  # a polynomial in the word hashes, modulo 2^64
        hashes = hashes * BASE + words[j : j + size]
    hashes = (hashes ^ (hashes >> np.uint64(33))) * MIX  # the high bits, by which n-grams are kept, get mixed
    inside = text_of[:size] == text_of[n - 1 : n - 1 + size]  # the run does not cross into the next text
    return hashes[inside], text_of[:size][inside]


class NgramIndex:
    """Maps the hash of each n-gram to the first added row that holds it. Add texts, call `merge`, then `find`.

    >>> index = NgramIndex(n=2)
    >>> index.add(["one two three", "two three four"], rows=np.array([10, 11]))
    >>> index.merge()
    >>> hashes, _ = ngram_hashes(["say two three"], n=2)
    >>> [int(index.rows[at]) if at >= 0 else None for at in index.find(hashes)]
    [None, 10]

    Attributes:
        hashes: [n-grams] uint64, sorted, unique.
        rows: [n-grams] int64, the row that holds each.
        kept_share: the share of all n-grams that the index keeps; 1.0 unless there are more than `limit`.
    """

    def __init__(self, n: int, limit: int = LIMIT) -> None:
        self.n, self.limit, self.kept_share = n, limit, 1.0
        self.hashes, self.rows = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, texts: list[str], rows: np.ndarray) -> None:
        """Add the n-grams of texts; `rows`, [texts] int64, are the numbers of the texts' rows."""
        hashes, text_of = ngram_hashes(texts, self.n)
        kept = self._sampled(hashes)
        self._pending.append((hashes[kept], rows[text_of[kept]]))
        self._waiting += len(self._pending[-1][0])
        if self._waiting > max(PENDING, len(self.hashes) // 2):
            self.merge()

    def merge(self) -> None:
        """Sort the added n-grams into `hashes` and `rows`; call it before `find`."""
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
        """Return each hash's position in `hashes` and `rows`, [hashes] int64; -1 if the index lacks it."""
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
    """A row that shares an n-gram with a row of an index, the other row.

    Attributes:
        row, other: number or example id of the row, and of the other row.
        words: the first run of words that both rows share, as `words_of` returns them, cut by `excerpt`.
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
    """Counts the rows that share an n-gram with an index, and records which n-grams of the index are shared.

    Attributes:
        rows: number of rows that share an n-gram.
        pairs: the first MAX_PAIRS of these rows, each with the index's row for the first n-gram that they share.
        met: [n-grams] bool, the index's n-grams that some row shares.
    """

    def __init__(self, index: NgramIndex) -> None:
        index.merge()
        self.index, self.rows = index, 0
        self.met = np.zeros(len(index.hashes), bool)
        self.pairs: list[Pair] = []

    def look_up(self, texts: list[str], rows: np.ndarray, questions: list[str] | None = None) -> np.ndarray:
        """Return which texts share an n-gram with the index, [texts] bool; the first MAX_PAIRS are kept in `pairs`.

        Args:
            texts: [texts].
            rows: [texts] int64, numbers or ids of the texts' rows.
            questions: [texts] the rows' questions, for excerpts; None if the texts themselves are the questions.
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
        """Return the index's row for the text's first shared n-gram, and the run of words shared with it from there.

        `at`, [n-grams of the text], holds the positions of the text's n-grams in the index, -1 if it lacks one.
        """
        first = int((at >= 0).argmax())
        other = self.index.rows[at[first]]
        same = (at[first:] >= 0) & (self.index.rows[at[first:]] == other)
        run = len(same) if same.all() else int(same.argmin())  # n-grams, each one word further than the one before
        words = words_of([text])["words"][0][first : first + run - 1 + self.index.n]
        return int(other), excerpt(" ".join(words))

    def touched(self, texts: list[str]) -> np.ndarray:
        """Return which of the texts that the index was made of hold an n-gram in `met`, [texts] bool."""
        return met_share(self.index, self.met, texts)[0] > 0


def met_share(index: NgramIndex, met: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which share of each text's n-grams is `met`, and how many of its n-grams the index keeps.

    Args:
        index: made of these texts, and of others.
        met: [n-grams of the index] bool.

    Returns:
        Shares, [texts], 0 for a text without n-grams; numbers of n-grams, [texts] int64.
    """
    hashes, text_of = ngram_hashes(texts, index.n)
    at = index.find(hashes)
    at, text_of = at[at >= 0], text_of[at >= 0]
    counts = np.bincount(text_of, minlength=len(texts))
    return np.bincount(text_of[met[at]], minlength=len(texts)) / np.maximum(counts, 1), counts
