"""Many sums at once, in the embedded model's own words: long answers that it can learn to get right.

The question lists a sum for each of several things, the reasoning works them off and the final answer lists the
results, so that a mistake anywhere makes it wrong. Every token depends on the prompt and on its near neighbourhood,
never on a chain of results (long_problems.py has those). A response has 95 tokens; with its end token it fills three
blocks of 32.

    python benchmarks/long_sums.py --count 5 --seed 1                 # print a few of each kind
"""

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "resources/tiny-dream"))

from problems import NAMES, THINGS, Step  # noqa: E402

LARGEST = 9  # of the second numbers


@dataclass(frozen=True)
class Sums:
    """What somebody has of each of `THINGS`: one digit for every number, so that all responses have one length."""

    template: ClassVar[str] = "Question: {question}\n{reasoning}\nThe final answer is: {answer}"
    name: str
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """`How many of each has Mia: apples 3 + 4, coins 9 - 5?`"""
        listed = (f"{thing} {s.left} {s.sign} {s.right}" for thing, s in zip(THINGS, self.steps, strict=False))
        return f"How many of each has {self.name}: {', '.join(listed)}?"

    @property
    def reasoning(self) -> str:
        """`apples 3 + 4 = 7, coins 9 - 5 = 4`"""
        return ", ".join(f"{thing} {step}" for thing, step in zip(THINGS, self.steps, strict=False))

    @property
    def answer(self) -> str:
        """`(7, 4)`: the grader reads a tuple; without brackets it would read a set, whose order does not count."""
        return f"({', '.join(str(step.result) for step in self.steps)})"

    @property
    def response(self) -> str:
        """What the template makes of reasoning and answer."""
        return self.template.partition("\n")[2].format(reasoning=self.reasoning, answer=self.answer)


@dataclass(frozen=True)
class Carries(Sums):
    """Seven sums of a number of two digits and one of one digit, whose results have two digits."""

    template: ClassVar[str] = "Question: {question}\n{reasoning}\nTherefore, the final answer is: {answer}"

    @property
    def reasoning(self) -> str:
        """`Mia now has apples 34 + 8 = 42, coins 71 - 9 = 62.`"""
        return f"{self.name} now has {super().reasoning}."


def sample_sums(rng: random.Random) -> Sums:
    """Draw a name and ten sums of numbers up to `LARGEST`."""
    return Sums(rng.choice(list(NAMES)), tuple(_sample_step(rng, range(1, 10), range(10)) for _ in THINGS))


def sample_carries(rng: random.Random) -> Carries:
    """Draw a name and seven sums."""
    return Carries(rng.choice(list(NAMES)), tuple(_sample_step(rng, range(10, 100), range(10, 100)) for _ in range(7)))


def _sample_step(rng: random.Random, first: range, results: range) -> Step:
    """Draw a sum whose first number and whose result are in these ranges."""
    while True:
        step = Step(rng.choice(first), rng.choice("+-"), rng.randint(1, LARGEST))
        if step.result in results:
            return step


def main() -> None:
    """Print a few problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="problems to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        for problem in (sample_sums(rng), sample_carries(rng)):
            print(f"{problem.question}\n    {problem.response}")


if __name__ == "__main__":
    main()
