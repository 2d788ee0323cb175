"""Arithmetic and short word problems of one to three steps, each with its worked reasoning.

A problem is a chain of steps over whole numbers from 0 to 99, so that two-digit arithmetic is all a solver needs to
know. `sample_problem` draws one from a `random.Random`: the same generator state gives the same problem everywhere.

    python resources/tiny-dream/problems.py --count 5 --seed 1        # print a few
"""

import argparse
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 99
NAMES = {
    **dict.fromkeys(["Mia", "Ana", "Eva", "Zoe", "Lily", "Nora"], "She"),
    **dict.fromkeys(["Tom", "Ben", "Leo", "Sam", "Max", "Omar"], "He"),
}
THINGS = ["apples", "coins", "cards", "books", "pens", "eggs", "shells", "stamps", "toys", "cakes"]
CONTAINERS = ["bags", "boxes", "packs", "jars"]
GAINS = ["finds", "buys", "gets", "wins"]
LOSSES = ["loses", "sells", "drops", "uses"]
WORD = re.compile(r"\d|[A-Za-z']+|[^\sA-Za-z\d]")  # what one token is: a digit, a word, a sign


@dataclass(frozen=True)
class Step:
    """One operation on whole numbers; `sign` is one of + - * /."""

    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        """The step's value. Division leaves no remainder (see `valid`)."""
        if self.sign == "/":
            return self.left // self.right
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.sign]

    @property
    def valid(self) -> bool:
        """Whether no number exceeds LARGEST or falls below 1 (the result: 0) and a division comes out even."""
        if self.sign == "/" and (self.right < 2 or self.left % self.right):
            return False
        return min(self.left, self.right) >= 1 and max(self.left, self.right) <= LARGEST and 0 <= self.result <= LARGEST

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


@dataclass(frozen=True)
class Problem:
    """A question in words or signs, and the steps that answer it."""

    kind: str
    question: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """The value of the last step."""
        return self.steps[-1].result

    @property
    def reasoning(self) -> str:
        """The worked steps as sentences: `3 * 4 = 12. 12 + 5 = 17.`"""
        return " ".join(f"{step}." for step in self.steps)


Draft = tuple[str, list[tuple[int | None, str, int | None]]]  # a number None stands for the result of the step before


def number(rng: random.Random, steps: int = 2) -> int:
    """Draw an operand: small ones are commoner, the more so in long problems, whose text must stay short."""
    return rng.randint(2, 9) if rng.random() < 0.25 * steps - 0.1 else rng.randint(10, 49)


def story(rng: random.Random, steps: int) -> Draft:
    """Somebody gains and loses things."""
    name, thing, start = rng.choice(list(NAMES)), rng.choice(THINGS), rng.choice([number(rng), rng.randint(10, 80)])
    events = [(rng.choice(GAINS + LOSSES), number(rng, steps)) for _ in range(steps)]
    work = [(None, "+" if verb in GAINS else "-", n) for verb, n in events]
    work[0] = (start, *work[0][1:])
    told = [f"{verb} {n}" for verb, n in events]
    if steps == 3:
        return f"{name} has {start} {thing}, {told[0]}, {told[1]} and {told[2]}. How many {thing} now?", work
    rest = " and ".join(told)
    return f"{name} has {start} {thing}. {NAMES[name]} {rest}. How many {thing} now?", work


def bus(rng: random.Random, steps: int) -> Draft:
    """People get on and off; in the long form half of them leave at the end."""
    start, off, on = rng.randint(10, 60), number(rng, steps), number(rng, steps)
    work: list[tuple[int | None, str, int | None]] = [(start, "-", off), (None, "+", on), (None, "/", 2)]
    told = [f"{off} get off", f"{on} get on", "half leave"][:steps]
    told_in_a_row = " and ".join(", ".join(told).rsplit(", ", 1))
    return f"A bus has {start} people. {told_in_a_row}. How many are on it?", work[:steps]


def packs(rng: random.Random, steps: int) -> Draft:
    """Containers of things, some of which are used up or added."""
    name, thing, box = rng.choice(list(NAMES)), rng.choice(THINGS), rng.choice(CONTAINERS)
    count, each, other = rng.randint(2, 9), rng.randint(2, 12), number(rng, steps)
    bought = f"{name} buys {count} {box} of {each} {thing}"
    if steps == 1:
        return f"{bought}. How many {thing} are there?", [(count, "*", each)]
    verb = rng.choice(LOSSES + GAINS)
    work: list[tuple[int | None, str, int | None]] = [(count, "*", each), (None, "+" if verb in GAINS else "-", other)]
    if steps == 2:
        return f"{bought} and {verb} {other}. How many {thing} now?", work
    friends = rng.randint(2, 6)
    question = f"{bought}, {verb} {other} and shares with {friends} friends. How many each?"
    return question, [*work, (None, "/", friends)]


def share(rng: random.Random, steps: int) -> Draft:
    """Things are shared evenly."""
    name, thing, friends = rng.choice(list(NAMES)), rng.choice(THINGS), rng.randint(2, 9)
    each, more = rng.randint(2, 12), number(rng, steps)
    total, gains = friends * each, rng.random() < 0.5
    end = f"{NAMES[name]} shares them with {friends} friends. How many does each get?"
    if steps == 1:
        return f"{name} has {total} {thing}. {end}", [(total, "/", friends)]
    start = total - more if gains else total + more
    first = f"{name} has {start} {thing} and {rng.choice(GAINS if gains else LOSSES)} {more}"
    work: list[tuple[int | None, str, int | None]] = [(start, "+" if gains else "-", more), (None, "/", friends)]
    if steps == 2:
        return f"{first}. {end}", work
    extra = rng.randint(2, 9)
    question = f"{first}. {friends} friends share them, then each gets {extra} more. How many each?"
    return question, [*work, (None, "+", extra)]


def price(rng: random.Random, steps: int) -> Draft:
    """What several things cost, and the change."""
    name, cost, count = rng.choice(list(NAMES)), rng.randint(2, 12), rng.randint(2, 9)
    thing, paid, other = rng.choice(THINGS), rng.randint(10, 99), rng.randint(2, 9)
    work: list[tuple[int | None, str, int | None]] = [(cost, "*", count)]
    start = f"One {thing[:-1]} costs {cost} dollars. {name} buys {count}"
    if steps == 1:
        return f"{start}. How many dollars is that?", work
    if steps == 2:
        return f"{start} and pays {paid} dollars. What is the change?", [*work, (paid, "-", None)]
    question = f"{start}, spends {other} more and pays {paid}. What is the change?"
    return question, [*work, (None, "+", other), (paid, "-", None)]


def compare(rng: random.Random, steps: int) -> Draft:
    """Two people, one of whom has more, fewer or several times as many."""
    (one, two), thing, first = rng.sample(list(NAMES), 2), rng.choice(THINGS), number(rng, 1)
    sign, difference = rng.choice("+-*"), rng.randint(2, 20)
    if sign == "*":
        difference = rng.randint(2, 5)
    words = {"+": f"more than {one}", "-": f"fewer than {one}", "*": "times as many"}
    start = f"{one} has {first} {thing}. {two} has {difference} {words[sign]}."
    if steps == 1:
        return f"{start} How many {thing} has {two}?", [(first, sign, difference)]
    work: list[tuple[int | None, str, int | None]] = [(first, sign, difference), (first, "+", None)]
    if steps == 2:
        return f"{start} How many {thing} do they have?", work
    return f"{start} They share them evenly. How many {thing} each?", [*work, (None, "/", 2)]


def puzzle(rng: random.Random, steps: int) -> Draft:
    """A number is changed a few times."""
    told, work = [], []
    for i in range(steps):
        sign, n = rng.choice("++--*/"), number(rng, steps)
        if sign in "*/":
            n = rng.randint(2, 6)
        words = {"+": f"add {n}", "-": f"subtract {n}", "*": f"multiply by {n}", "/": f"divide by {n}"}[sign]
        if sign == "*" and n == 2:
            words = "double it"
        told.append(words)
        work.append((number(rng, 1) if i == 0 else None, sign, n))
    text = " and ".join(", ".join(told).rsplit(", ", 1))
    return f"Start with {work[0][0]}, {text}. What do you get?", work


def expression(rng: random.Random, steps: int) -> Draft:
    """Signs only; brackets say what comes first."""
    a, b, c, d = number(rng, 2), number(rng, steps), rng.randint(2, 9), number(rng, steps)
    first, last = rng.choice("+-"), rng.choice("+-")
    if steps == 1:
        sign = rng.choice("+-*/")
        return f"What is {a} {sign} {b}?", [(a, sign, b)]
    if steps == 2:
        shape = rng.choice(["sum", "bracket", "product", "late"])
        if shape == "sum":
            return f"What is {a} {first} {b} {last} {d}?", [(a, first, b), (None, last, d)]
        if shape == "bracket":
            return f"What is ({a} {first} {b}) * {c}?", [(a, first, b), (None, "*", c)]
        if shape == "product":
            return f"What is {a} * {c} {last} {d}?", [(a, "*", c), (None, last, d)]
        return f"What is {d} {last} {a} * {c}?", [(a, "*", c), (d, last, None)]
    return f"What is ({a} {first} {b}) * {c} {last} {d}?", [(a, first, b), (None, "*", c), (None, last, d)]


KINDS: dict[str, Callable[[random.Random, int], Draft]] = {
    kind.__name__: kind for kind in (story, bus, packs, share, price, compare, puzzle, expression)
}


def sample_problem(rng: random.Random, steps: int, max_question: int = 23, max_reasoning: int = 22) -> Problem:
    """Draw a problem of `steps` (1..3) valid steps whose texts have at most so many tokens (see `WORD`)."""
    while True:
        kind = rng.choice(list(KINDS))
        question, draft = KINDS[kind](rng, steps)
        work: list[Step] = []
        for left, sign, right in draft:
            before = work[-1].result if work else 0
            work.append(Step(before if left is None else left, sign, before if right is None else right))
            if not work[-1].valid:
                break
        else:
            problem = Problem(kind, question, tuple(work))
            if tokens(question) <= max_question and tokens(problem.reasoning) <= max_reasoning:
                return problem


def tokens(text: str) -> int:
    """Count the tokens of `text` (each digit, word and sign is one)."""
    return len(WORD.findall(text))


def main() -> None:
    """Print a few problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="problems to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        problem = sample_problem(rng, rng.choice([2, 3]))
        print(f"{problem.kind}: {problem.question}\n    {problem.reasoning}")


if __name__ == "__main__":
    main()
