"""Normalised text: what counts as the same question."""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Fold case, Unicode compatibility forms and white space; keep punctuation, which is meaning in mathematics."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_hash(question: str, seed: int = 0) -> int:
    """Return 64 bits that are the same for every spelling `normalise` makes equal."""
    digest = hashlib.blake2b(normalise(question).encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")
