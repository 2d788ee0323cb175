"""Find the questions that are made from one template: the same words in the same order, other names and numbers.

The *skeleton* of a question is the question with a slot for each name, number and pronoun. Two skeletons belong to one
template if the sets of their words and pairs of neighbouring words have a Jaccard similarity of at least SAME; so does
what is linked by a chain of such skeletons. Pairs worth a comparison are found by MinHash and locality-sensitive
hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3), for which `rensa` makes
the signatures; each pair is then compared exactly.

A row costs 16 bytes of memory, and each distinct skeleton 4 bytes a word and 200 more.
"""

from typing import Any

import numpy as np
import rensa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dreamtune.contamination.hashing import BASE, MIX, mixed
from dreamtune.contamination.words import NAME, NUMBER, WORD, Words

SAME = 0.7  # Jaccard similarity of two skeletons of one template
LIKELY = 0.55  # share of the signatures' places that agree, below which a pair is not compared: SAME less 3.5 sd
HASHES = 96  # places of a signature; four are a band, and a pair as similar as SAME shares a band with 99.9 %
CHUNK = 20_000  # skeletons whose signatures are made at a time
SLOTS = np.array([0, 1, 2, 3], np.uint32)  # what stands for a word of each kind in a skeleton, beside the words' hashes


class Templates:
    """The templates of questions. `add` all of them, in batches, then call `finish`.

    >>> from dreamtune.contamination.words import read_words
    >>> templates = Templates()
    >>> _ = templates.add(read_words(["Nora buys 8 pens. How many pens has she?", "What is a prime?"]))
    >>> _ = templates.add(read_words(["Tom buys 12 pens. How many pens has he?"]))
    >>> templates.finish()
    >>> templates.numbers.tolist()
    [0, 1, 0]

    Attributes:
        numbers: [questions] int32, each question's template as a number from 0.
        identities: [questions] uint64, equal for questions of one template with the same names and numbers.
    """

    def __init__(self) -> None:
        self.numbers, self.identities = np.empty(0, np.int32), np.empty(0, np.uint64)
        self.rows = 0
        self._skeletons: list[np.ndarray] = []  # hash of each question's skeleton, 0 for one without a word
        self._fillings: list[np.ndarray] = []  # hash of what stands in each question's slots
        self._known = np.empty(0, np.uint64)  # hashes of the distinct skeletons, sorted
        self._words: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # their hashes, words and numbers of words

    def add(self, questions: Words) -> slice:
        """Add questions; return their places among all questions."""
        skeletons = skeletons_of(questions)
        starts = skeletons.starts()
        position = (np.arange(len(skeletons.hashes)) - starts[skeletons.text_of]).astype(np.uint64)
        hashes = _sums(mixed(skeletons.hashes * BASE + mixed(position)), starts)
        _, first = np.unique(hashes, return_index=True)
        new = np.sort(first[~np.isin(hashes[first], self._known) & (hashes[first] != 0)])
        lengths = np.diff(starts)[new]
        chosen = np.isin(skeletons.text_of, new)
        self._words.append((hashes[new], skeletons.hashes[chosen].astype(np.uint32), lengths))
        self._known = np.union1d(self._known, hashes[new])
        self._skeletons.append(hashes)
        self._fillings.append(fillings_of(questions))
        self.rows += questions.texts
        return slice(self.rows - questions.texts, self.rows)

    def finish(self) -> None:
        """Set `numbers` and `identities`. A question without a word has a template of its own."""
        hashes = np.concatenate([np.empty(0, np.uint64), *self._skeletons])
        known, words, lengths = (np.concatenate(parts) for parts in zip(*self._words, strict=True))
        labels = linked(words, np.concatenate([[0], np.cumsum(lengths)]))
        order = np.argsort(known)
        labels = np.concatenate([labels[order] + 1, np.zeros(1, np.int64)])  # 0 for a question without a word
        at = np.searchsorted(known[order], hashes)
        self.numbers = numbered(labels[np.where(hashes == 0, len(known), at)].astype(np.uint64))
        fillings = np.concatenate([np.empty(0, np.uint64), *self._fillings])
        self.identities = mixed(fillings + mixed(self.numbers.astype(np.uint64)))
        self._skeletons, self._fillings, self._words = [], [], []


def numbered(labels: np.ndarray) -> np.ndarray:
    """Return labels as numbers in the order in which they first occur, [rows] int32; each label 0 gets its own number.

    >>> numbered(np.array([7, 0, 5, 7, 0], np.uint64)).tolist()
    [0, 1, 2, 0, 3]
    """
    _, number_of = np.unique(labels, return_inverse=True)
    alone = labels == 0
    number_of[alone] = number_of.max(initial=0) + 1 + np.arange(alone.sum())
    _, first, number_of = np.unique(number_of, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number_of].astype(np.int32)


def first_members(numbers: np.ndarray) -> np.ndarray:
    """Return for each question the place of the first question of its template, [questions] int64.

    >>> first_members(np.array([4, 7, 4, 7, 2])).tolist()
    [0, 1, 0, 1, 4]
    """
    _, first, number_of = np.unique(numbers, return_index=True, return_inverse=True)
    return first[number_of]


def skeletons_of(questions: Words) -> Words:
    """Return the questions with slots for names, numbers and pronouns; names in a row share one slot."""
    filled = np.where(questions.kinds == WORD, questions.hashes >> np.uint64(32), SLOTS[questions.kinds])
    again = np.zeros(len(filled), bool)
    same_text = questions.text_of[1:] == questions.text_of[:-1]
    again[1:] = (questions.kinds[1:] == NAME) & (questions.kinds[:-1] == NAME) & same_text
    return Words(filled.astype(np.uint64), questions.kinds, questions.text_of, questions.texts).kept(~again)


def fillings_of(questions: Words) -> np.ndarray:
    """Return a hash of each question's numbers, each as often as it occurs, and of the set of its names, [texts]."""
    numbers = questions.kept(questions.kinds == NUMBER)
    names = questions.kept(questions.kinds == NAME)
    order = np.lexsort((names.hashes, names.text_of))
    hashes, text_of = names.hashes[order], names.text_of[order]
    once = np.ones(len(hashes), bool)
    once[1:] = (hashes[1:] != hashes[:-1]) | (text_of[1:] != text_of[:-1])
    names = Words(hashes, names.kinds, text_of, names.texts).kept(once)
    return _sums(mixed(numbers.hashes), numbers.starts()) + _sums(mixed(names.hashes ^ MIX), names.starts())


def shingles(words: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of each skeleton's words and pairs of neighbouring words, [shingles] uint64, and their starts.

    Args:
        words: [words], the words of skeletons one after the other.
        starts: [skeletons + 1], the place of each one's first word, and the number of words.
    """
    words = words.astype(np.uint64)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    inside = owner[1:] == owner[:-1]
    pairs = mixed(words[:-1] * BASE + words[1:])[inside]
    owners = np.concatenate([owner, owner[1:][inside]])
    order = np.argsort(owners, kind="stable")
    return np.concatenate([mixed(words), pairs])[order], np.searchsorted(owners[order], np.arange(len(starts)))


def linked(words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return each skeleton's template as a number, [skeletons]; arguments as for `shingles`."""
    labels = np.arange(len(starts) - 1)
    signatures = _signatures(words, starts)  # [skeletons, HASHES] uint16
    bands = signatures.view(np.uint64)  # [skeletons, bands]: four places are one number
    for band in range(bands.shape[1]):
        pairs = _neighbours(bands[:, band])
        pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
        if not len(pairs):
            continue
        agreeing = [(signatures[a] == signatures[b]).mean(axis=1) for a, b in (p.T for p in _chunks(pairs))]
        pairs = pairs[np.concatenate(agreeing) >= LIKELY]
        same = np.array([similarity(_set(words, starts, a), _set(words, starts, b)) >= SAME for a, b in pairs], bool)
        ends = labels[pairs[same]]
        edges = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(labels), len(labels)))
        labels = connected_components(edges, directed=False)[1][labels]
    return labels


def similarity(a: set[Any], b: set[Any]) -> float:
    """Return the Jaccard similarity of two sets: 1 for equal ones, 0 if they share nothing."""
    return len(a & b) / max(len(a | b), 1)


def _signatures(words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return MinHash signatures, [skeletons, HASHES] uint16: the lower halves of rensa's numbers tell enough apart."""
    parts = [np.empty((0, HASHES), np.uint16)]
    for chunk in _chunks(np.arange(len(starts) - 1)):
        own = starts[chunk[0] : chunk[-1] + 2]
        hashes, offsets = shingles(words[own[0] : own[-1]], own - own[0])
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), HASHES, 0)
        parts.append(np.array(matrix.to_rows(), np.uint32).astype(np.uint16))
    return np.concatenate(parts)


def _neighbours(keys: np.ndarray) -> np.ndarray:
    """Return pairs of places with the same key: each place with the two before it that have its key, and the first.

    All pairs would be too many where thousands of skeletons are alike, and a chain of pairs links as well.

    >>> _neighbours(np.array([5, 7, 5, 5, 5])).tolist()
    [[2, 0], [3, 0], [3, 2], [4, 0], [4, 2], [4, 3]]
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, ordered)
    places = np.arange(len(keys))
    pairs = [np.stack([places, to], axis=1) for to in (places - 1, places - 2, first)]
    kept = [found[(found[:, 1] >= first) & (found[:, 1] < places)] for found in pairs]
    return np.unique(order[np.concatenate(kept)], axis=0)


def _set(words: np.ndarray, starts: np.ndarray, skeleton: int) -> set[int]:
    own = words[starts[skeleton] : starts[skeleton + 1]]
    return set(shingles(own, np.array([0, len(own)]))[0].tolist())


def _chunks(items: np.ndarray) -> list[np.ndarray]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _sums(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sum of each text's hashes modulo 2^64, [texts] uint64; 0 for a text without any."""
    upto = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
    return upto[starts[1:]] - upto[starts[:-1]]
