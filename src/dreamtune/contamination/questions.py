"""Normalisation of questions: two questions are the same if they are equal after it."""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Return the text with case, Unicode compatibility forms (NFKC) and white space made uniform.

    Punctuation stays, because it carries meaning in mathematics.

    >>> normalise(" What is\\n ２ + 2? ")
    'what is 2 + 2?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_hash(question: str, seed: int = 0) -> int:
    """Return a 64-bit hash of the normalised question; `seed` selects one of many hash functions."""
    digest = hashlib.blake2b(normalise(question).encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")
