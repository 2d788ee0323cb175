"""Problems of five steps in the embedded model's own words, whose answers span three blocks of 32 tokens.

Every step works on the result of the one before, so a wrong guess anywhere makes the final answer wrong: what decoding
several tokens at a time could spoil. The embedded model's pretraining saw three steps at most.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dreamtune.contamination.questions import normalise, question_hash
from dreamtune.settings.data import Split

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "resources/tiny-dream"))

from problems import GAINS, LOSSES, NAMES, THINGS, Step, tokens  # noqa: E402

TEMPLATE = "Question: {question}\n{reasoning}\nTherefore, the final answer is: {answer}"
STEPS = 5
LARGEST_VALUE, LARGEST_OPERAND = 12, 9  # so few sums that the embedded model learns them all in minutes
RESPONSE = range(66, 93)  # tokens of a response without its end token: more than two blocks of 32, at most three


class Problem(Protocol):
    """What a row is made of."""

    @property
    def question(self) -> str: ...
    @property
    def reasoning(self) -> str: ...
    @property
    def answer(self) -> object: ...


@dataclass(frozen=True)
class Story:
    """Somebody gains and loses things."""

    name: str
    thing: str
    verbs: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """What happens, and the question how many there are in the end."""
        told = [f"{verb} {step.right}" for verb, step in zip(self.verbs, self.steps, strict=True)]
        listed = " and ".join(", ".join(told).rsplit(", ", 1))
        start = f"{self.name} has {self.steps[0].left} {self.thing}."
        return f"{start} {NAMES[self.name]} {listed}. How many {self.thing} now?"

    @property
    def reasoning(self) -> str:
        """The same told again step by step: `Tom finds 5, then has 7 + 5 = 12 apples.`"""
        told = zip(self.verbs, self.steps, strict=True)
        return " ".join(f"{self.name} {verb} {step.right}, then has {step} {self.thing}." for verb, step in told)

    @property
    def answer(self) -> int:
        """The value of the last step."""
        return self.steps[-1].result

    @property
    def response(self) -> str:
        """What the template makes of reasoning and answer."""
        return f"{self.reasoning}\nTherefore, the final answer is: {self.answer}"


def sample_story(rng: random.Random) -> Story:
    """Draw a story of `STEPS` steps, none of which comes to 0 (it could not go on)."""
    while True:
        steps: list[Step] = []
        value = rng.randint(1, LARGEST_VALUE)
        while len(steps) < STEPS:
            step = Step(value, rng.choice("+-"), rng.randint(2, LARGEST_OPERAND))
            if 1 <= step.result <= LARGEST_VALUE:
                steps.append(step)
                value = step.result
        verbs = tuple(rng.choice(GAINS if step.sign == "+" else LOSSES) for step in steps)
        story = Story(rng.choice(list(NAMES)), rng.choice(THINGS), verbs, tuple(steps))
        if tokens(story.response) in RESPONSE:
            return story


def sample_rows(
    sample: Callable[[random.Random], Problem], split: Split, train: int, test: int, seed: int
) -> Iterator[Problem]:
    """Yield problems with different questions until the split's hash has put so many into training and test."""
    rng, seen, missing = random.Random(seed), set[str](), {"train": train, "test": test}
    while any(missing.values()):
        problem = sample(rng)
        question = normalise(problem.question)
        place = question_hash(question, split.seed) / 2**64
        name = "test" if place < split.test else "train" if place >= split.test + split.validation else "validation"
        if missing.get(name, 0) and question not in seen:
            missing[name] -= 1
            seen.add(question)
            yield problem


def write_rows(
    path: Path, sample: Callable[[random.Random], Problem], split: Split, train: int, test: int, seed: int = 0
) -> Path:
    """Write question, reasoning and answer of `sample_rows`."""
    rows = [
        {"question": p.question, "reasoning": p.reasoning, "answer": str(p.answer)}
        for p in sample_rows(sample, split, train, test, seed)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return path
