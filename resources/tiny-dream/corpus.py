"""What the base model is pretrained on: problems in formats that are not the fine-tuning rows' format.

Documents come in chunks of 1,000, each a function of (seed, chunk number) alone. A problem whose question is held in
the rows is left out in every format (`excluded`: hashes of the normalised questions).

    python resources/tiny-dream/corpus.py --count 20 --seed 1         # print a few documents
"""

import argparse
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from library import question_hash
from problems import Problem, Step, sample_problem

CHUNK = 1000
SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "over"}


@dataclass(frozen=True)
class Mix:
    """How often each sort of document is drawn; weights need not add up to one."""

    sums: float = 3.0  # one bare step
    one: float = 3.0  # one-step problems, worked
    two: float = 2.0  # two-step problems, worked
    three: float = 1.0  # three-step problems, worked
    direct: float = 1.0  # problems of all lengths, answered without work
    retold: float = 0.0  # questions said again: no answer names a person or a thing, so nothing else tells them apart

    def draw(self, rng: random.Random) -> str:
        """Return the name of a sort."""
        weights = vars(self)
        return rng.choices(list(weights), list(weights.values()))[0]


# (seed, chunks, mix) of the runs of pretrain.py that made the shipped weights; each continued the one before.
SHIPPED = ((1, 450, Mix()), (2, 150, Mix(retold=4.0)), (3, 20, Mix(retold=4.0)))


@dataclass(frozen=True)
class Document:
    """A prompt, its response, and the question both are about (in the rows' wording)."""

    question: str
    prompt: str
    response: str


def spoken(step: Step) -> str:
    """Say a step in words: `3 times 4 is 12`."""
    return f"{step.left} {SPOKEN[step.sign]} {step.right} is {step.result}"


def reversed_sides(step: Step) -> str:
    """Write a step with its result first: `12 = 3 * 4`."""
    return f"{step.result} = {step.left} {step.sign} {step.right}"


def joined(problem: Problem, separator: str, write: Callable[[Step], str] = str) -> str:
    """Write all steps of a problem."""
    return separator.join(write(step) for step in problem.steps)


# Each worked format: (what stands before the question, what stands after it, the response).
WORKED: list[tuple[str, str, Callable[[Problem], str]]] = [
    ("Problem:", "Solution:", lambda p: f"{joined(p, ', ')}. Result: {p.answer}."),
    ("Task:", "Work:", lambda p: f"{joined(p, '; ')}; result {p.answer}"),
    ("", "Let's think.", lambda p: f"First {joined(p, ', then ', spoken)}. Therefore {p.answer}."),
    ("Puzzle:", "", lambda p: f"{joined(p, ', ', reversed_sides)}. Answer: {p.answer}."),
    ("Think of this.", "Solution:", lambda p: f"It is {p.answer}, since {joined(p, ' and ')}."),
    ("Solve it by hand:", "", lambda p: f"{joined(p, '; ', spoken)}. The result is {p.answer}"),
]
DIRECT: list[tuple[str, str, Callable[[Problem], str]]] = [
    ("Problem:", "Result:", lambda p: f"{p.answer}."),
    ("Question:", "", lambda p: f"The answer is {p.answer}."),
    ("Task:", "", lambda p: f"The result is {p.answer}."),
    ("", "Answer:", lambda p: f"{p.answer}"),
    ("Puzzle:", "In one step:", lambda p: f"It is {p.answer}. Therefore the end."),
]


def sum_document(rng: random.Random) -> tuple[Problem, str, str]:
    """One bare step, asked for in signs or in words; some leave out an operand instead of the result."""
    while True:
        sign = rng.choice("++--*/")
        right = rng.randint(1, 12) if sign in "*/" or rng.random() < 0.4 else rng.randint(1, 89)
        left = rng.randint(1, 12) if sign == "*" else rng.randint(1, 99)
        if sign == "/":
            left = right * rng.randint(1, 12)
        step = Step(left, sign, right)
        if step.valid:
            break
    problem = Problem("sum", f"What is {left} {sign} {right}?", (step,))
    shape = rng.random()
    if shape < 0.5:
        return problem, f"{left} {sign} {right} =", f"{step.result}"
    if shape < 0.6:
        return problem, f"{left} {SPOKEN[sign]} {right}", f"is {step.result}."
    if shape < 0.7:
        return problem, "Sum:", f"{step}."
    if shape < 0.8:
        return problem, f"Find {step.result}:", f"{reversed_sides(step)}"
    return problem, f"What is {left} {SPOKEN[sign]} {right}?", f"The final result: {step.result}"


def draw_document(rng: random.Random, mix: Mix) -> Document:
    """Draw one document, whatever its question."""
    sort = mix.draw(rng)
    if sort == "sums":
        problem, prompt, response = sum_document(rng)
        return Document(problem.question, prompt, response)
    steps = {"one": 1, "two": 2, "three": 3}.get(sort) or rng.choice([1, 2, 2, 3])
    problem = sample_problem(rng, steps)
    if sort == "retold":
        return Document(problem.question, f"Task: {problem.question} Find the Question:", problem.question)
    before, after, respond = rng.choice(DIRECT if sort == "direct" else WORKED)
    return Document(problem.question, f"{before} {problem.question} {after}".strip(), respond(problem))


def documents(seed: int, chunk: int, excluded: Collection[int], mix: Mix | None = None) -> Iterator[Document]:
    """Yield the CHUNK documents of one chunk; none is about an `excluded` question (hashes of `question_hash`)."""
    rng = random.Random(seed * 1_000_003 + chunk)
    mix = mix or Mix()
    left = CHUNK
    while left:
        document = draw_document(rng, mix)
        if question_hash(document.question) not in excluded:
            left -= 1
            yield document


def main() -> None:
    """Print a few documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="documents to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the corpus")
    args = parser.parse_args()
    for _, document in zip(range(args.count), documents(args.seed, 0, frozenset()), strict=False):
        print(f"{document.prompt} | {document.response}")


if __name__ == "__main__":
    main()
