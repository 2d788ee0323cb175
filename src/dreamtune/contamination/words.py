"""The words of questions, told apart by what they are to a template: its own words, and names and numbers in its slots.

A number has one form, however it is written: 1,000 and 1{,}000 and 1000.0 and "three" and 3. A name is a word with a
capital letter that is not one of COMMON, English words which often begin a sentence: the rule looks at nothing but the
word, so that it says the same of every copy of a text. In German, where all nouns have capitals, all nouns are names.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

WORD, NAME, NUMBER, PRONOUN = range(4)
# A number, a Chinese character, another word, or a sign.
PATTERN = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\p{Han}|[\p{L}--\p{Han}]+|[+\-*/=<>^%×÷·]"
# LaTeX that changes nothing: spacing, delimiters that grow, empty powers and indices.
SPACING = r"\\(?:left|right|quad|qquad|displaystyle|limits)\b|\\[!,;: ]|[\^_]\{\}"
SMALL_NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMERALS = {
    **{word: str(i) for i, word in enumerate(SMALL_NUMBERS.split())},
    **{word: str(10 * i) for i, word in enumerate(TENS.split(), 2)},
}
PRONOUNS = ["he", "she", "him", "her", "his", "hers", "himself", "herself"]
ENGLISH = """
a about according add after all also altogether although an and another any are arrange as ask assume assuming at
based because before below between both but by calculate can choose compare complete compute consider construct
convert could count define denote describe determine did divide do does draw due during each either enter estimate
evaluate every everyone expand explain express extend factor few fill finally find first for from give given had half
has have hence here how however i identify if ignore imagine in indicate initially instead into is it its knowing last
later let list make many more most multiply my name next no none normally not note nothing now of on once only or
originally other our out over perform pick please plot point prove put read recall recently remember return round
same say select several show similarly simplify since so solve some sometimes soon start starting state subtract such
suddenly suppose take tell that the their them then there therefore these they this those though through thus to today
together tomorrow twice typically under unless until up upon use using usually verify was we were what when whenever
where whether which while who whom whose why with without work would write yesterday yet you your
"""
COMMON = frozenset(ENGLISH.split())


@dataclass(frozen=True)
class Words:
    """The words, numbers and mathematical signs of several texts, one text after the other.

    Attributes:
        hashes: [words] uint64, of each word's uniform form.
        kinds: [words] uint8, WORD, NAME, NUMBER or PRONOUN.
        text_of: [words] int64, the number of the text that it stands in.
        texts: number of texts.
    """

    hashes: np.ndarray
    kinds: np.ndarray
    text_of: np.ndarray
    texts: int

    def kept(self, which: np.ndarray) -> "Words":
        """Return the words that `which`, [words] bool, chooses."""
        return Words(self.hashes[which], self.kinds[which], self.text_of[which], self.texts)

    def starts(self) -> np.ndarray:
        """Return the place of each text's first word, and at the end the number of words, [texts + 1]."""
        return np.searchsorted(self.text_of, np.arange(self.texts + 1))


def read_words(texts: list[str]) -> Words:
    """Return the words of the texts.

    >>> words = read_words(["Nora has 1,000 pens.", "She has three."])
    >>> [("word", "name", "number", "pronoun")[kind] for kind in words.kinds]
    ['name', 'word', 'number', 'word', 'pronoun', 'word', 'number']
    """
    uniform = (
        pl.col("text").str.normalize("NFKC").str.replace_all(SPACING, "").str.replace_all("{,}", ",", literal=True)
    )
    found = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(words=uniform.str.extract_all(PATTERN))
    counts = found.select(pl.col("words").list.len()).to_series().to_numpy().astype(np.int64)  # [texts]
    words = found.select(pl.col("words").explode().drop_nulls()).to_series()
    # A text has thousands of words, and few different ones: each of those is looked at once.
    _, first, number_of = np.unique(words.hash(0).to_numpy(), return_index=True, return_inverse=True)
    distinct = pl.DataFrame({"word": words.gather(first)}).select(*_looked_at(pl.col("word")))
    hashes, kinds = distinct["uniform"].hash(0).to_numpy(), distinct["kind"].to_numpy()
    return Words(hashes[number_of], kinds[number_of], np.repeat(np.arange(len(texts)), counts), len(texts))


def _looked_at(word: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return expressions for a word's uniform form and its kind."""
    low = word.str.to_lowercase()
    number = low.replace(NUMERALS).str.replace_all(",", "").str.replace(r"^(\d+)\.0+$", r"$1")
    uniform = number.str.replace(r"^(\d+\.\d*?[1-9])0+$", r"$1").str.replace("^[dt]frac$", "frac")
    kind = (
        pl.when(word.str.contains(r"^\d") | low.is_in(list(NUMERALS)))
        .then(NUMBER)
        .when(low.is_in(PRONOUNS))
        .then(PRONOUN)
        .when(word.str.contains(r"^\p{Lu}") & ~low.is_in(list(COMMON)))
        .then(NAME)
        .otherwise(WORD)
    )
    return uniform.alias("uniform"), kind.cast(pl.UInt8).alias("kind")
