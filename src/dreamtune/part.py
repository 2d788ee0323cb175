"""The part of a version that one of several jobs makes, such as the second of seven (see `scatter`)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """The `number`th, from 1, of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read "2/7".

        Raises:
            ValueError: it is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no part; write 2/7 for the second of seven")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `of`th item: neighbours, alike in length and cost, go to different parts."""
        return items[self.number - 1 :: self.of]

    def stretch(self, count: int) -> range:
        """Return this part's stretch of range(count), for what is cheaper to read in one piece."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)
