"""The script of a text, such as Latin or Cyrillic, by the Unicode blocks of its letters: script, not language."""

import re

import numpy as np

SAMPLE = 1_000  # only this many characters at the start of a text are looked at
ENOUGH = 20  # a text with fewer letters has no script: a number, a formula, the letter of a choice
# For each script the code points of its blocks (unicode.org, Blocks.txt); of Latin's first block only the letters.
BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": (
        *((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2AF)),
        *((0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA722, 0xA787), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    ),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0xA640, 0xA69F)),
    "Armenian": ((0x530, 0x58F),),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Thai": ((0xE00, 0xE7F),),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF)),
    "Ethiopic": ((0x1200, 0x139F),),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    # Japanese mixes Han and Kana, and a short Japanese answer may hold only one of them.
    "Han and Kana": (
        *((0x3041, 0x30FA), (0x3105, 0x312F), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),
        *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFD)),
    ),
}
NAMES = ("", *BLOCKS)
LATIN = NAMES.index("Latin")
# A sign for a syllable or a word counts as several letters: a question of seven Han signs is a sentence.
LETTER_WEIGHTS = np.array([0 if not name else 3 if name in ("Hangul", "Han and Kana") else 1 for name in NAMES])
LATEX = re.compile(r"\\[A-Za-z]+")  # the letters of \frac say nothing about the text's script
NO_LETTERS = bytes(b for b in range(256) if not bytes([b]).isalpha())


def _script_of_code_points() -> np.ndarray:
    """Return the script of every code point, [0x110000] uint8, an index into NAMES."""
    scripts = np.zeros(0x110000, np.uint8)
    for number, name in enumerate(NAMES):
        for first, last in BLOCKS.get(name, ()):
            scripts[first : last + 1] = number
    return scripts


SCRIPTS = _script_of_code_points()  # [code points], index into NAMES


def scripts_of(texts: list[str]) -> np.ndarray:
    """Return the script of most letters of each text, [texts] uint8, an index into NAMES; 0 for too few letters.

    >>> texts = ["How many apples are left over?", "Сколько яблок осталось у Анны?", "17"]
    >>> [NAMES[number] for number in scripts_of(texts)]
    ['Latin', 'Cyrillic', '']
    """
    return np.fromiter(map(_script_of, texts), np.uint8, len(texts))


def _script_of(text: str) -> int:
    """Return the index into NAMES of one text's script, see `scripts_of`."""
    sample = text[:SAMPLE]
    if "\\" in sample:
        sample = LATEX.sub("", sample)
    if sample.isascii():  # nearly all texts, in a tenth of the time
        return LATIN if len(sample.encode().translate(None, NO_LETTERS)) >= ENOUGH else 0
    codes = np.frombuffer(sample.encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = np.bincount(SCRIPTS[codes], minlength=len(NAMES)) * LETTER_WEIGHTS  # [scripts]
    return int(letters.argmax()) if letters.sum() >= ENOUGH else 0
