"""A part of a version, made by one of several jobs that share its work (`scatter` in the configuration)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part `number`, counted from 1, of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that a text such as "2/7" names.

        Raises:
            ValueError: the text names no part.

        >>> Part.parse("2/7")
        Part(number=2, of=7)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no part; write 2/7 for the second of seven")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return this part's items, every `of`th one: neighbours, alike in length and cost, go to different parts.

        >>> Part(2, 3).deal("abcdefgh")
        'beh'
        """
        return items[self.number - 1 :: self.of]

    def stretch(self, count: int) -> range:
        """Return this part's contiguous stretch of range(count), for items that are cheaper to read in one piece.

        >>> [Part(number, 3).stretch(8) for number in (1, 2, 3)]
        [range(0, 2), range(2, 5), range(5, 8)]
        """
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)
