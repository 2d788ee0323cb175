"""Ten small sums at once, in the embedded model's own words: long answers that it can learn to get right.

The question lists a sum for each of ten things, the reasoning works them off and the final answer lists the
results, so that a mistake anywhere makes it wrong. Every token depends on the prompt and on its near neighbourhood,
never on a chain of results (long_problems.py has those). A response has 95 tokens; with its end token it fills three
blocks of 32.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "resources/tiny-dream"))

from problems import NAMES, THINGS, Step  # noqa: E402

LARGEST = 9  # one digit for every number, so that all responses have one length


@dataclass(frozen=True)
class Sums:
    """What somebody has of each of `THINGS`."""

    template: ClassVar[str] = "Question: {question}\n{reasoning}\nThe final answer is: {answer}"
    name: str
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """`How many of each has Mia: apples 3 + 4, coins 9 - 5?`"""
        listed = (f"{thing} {s.left} {s.sign} {s.right}" for thing, s in zip(THINGS, self.steps, strict=True))
        return f"How many of each has {self.name}: {', '.join(listed)}?"

    @property
    def reasoning(self) -> str:
        """`apples 3 + 4 = 7, coins 9 - 5 = 4`"""
        return ", ".join(f"{thing} {step}" for thing, step in zip(THINGS, self.steps, strict=True))

    @property
    def answer(self) -> str:
        """`(7, 4)`: the grader reads a tuple; without brackets it would read a set, whose order does not count."""
        return f"({', '.join(str(step.result) for step in self.steps)})"

    @property
    def response(self) -> str:
        """What the template makes of reasoning and answer."""
        return self.template.partition("\n")[2].format(reasoning=self.reasoning, answer=self.answer)


def sample_sums(rng: random.Random) -> Sums:
    """Draw a name and ten sums of numbers up to `LARGEST`."""
    return Sums(rng.choice(list(NAMES)), tuple(_sample_step(rng) for _ in THINGS))


def _sample_step(rng: random.Random) -> Step:
    while True:
        step = Step(rng.randint(1, LARGEST), rng.choice("+-"), rng.randint(1, LARGEST))
        if 0 <= step.result <= LARGEST:
            return step
