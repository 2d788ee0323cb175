"""Problems of six to nine steps in the embedded model's own words; their answers span three blocks of 32 tokens.

Every step works on the result of the one before, so a wrong guess anywhere makes the final answer wrong: what decoding
several tokens at a time could spoil. The embedded model's pretraining saw three steps at most.

    python benchmarks/long_problems.py --count 5 --seed 1             # print a few
"""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreamtune.settings.data import Split
from dreamtune.text import normalise, question_hash

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "resources/tiny-dream"))

from problems import GAINS, LOSSES, NAMES, THINGS, Problem, Step, tokens  # noqa: E402

TEMPLATE = "Question: {question}\nLet's think step by step.\n{reasoning}\nTherefore, the final answer is: {answer}"
STEPS = range(6, 10)
RESPONSE = range(66, 93)  # tokens of a response without its end token: more than two blocks of 32, at most three
WORDS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}", "/": "divide by {}"}
SIGNS = "+++---**//"  # as often as each is tried


def draw_steps(rng: random.Random, count: int, signs: str) -> tuple[Step, ...]:
    """Draw a chain of valid steps, none of which comes to 0 (it could not go on)."""
    steps: list[Step] = []
    value = rng.randint(10, 80)
    while len(steps) < count:
        sign = rng.choice(signs)
        step = Step(value, sign, rng.randint(2, 6) if sign in "*/" else rng.randint(2, 49))
        if step.valid and step.result:
            steps.append(step)
            value = step.result
    return tuple(steps)


def listed(parts: list[str]) -> str:
    """Join as `a, b and c`."""
    return " and ".join(", ".join(parts).rsplit(", ", 1))


def puzzle(rng: random.Random, count: int) -> Problem:
    """A number is changed again and again."""
    steps = draw_steps(rng, count, SIGNS)
    told = listed([WORDS[step.sign].format(step.right) for step in steps])
    return Problem("puzzle", f"Start with {steps[0].left}, {told}. What do you get?", steps)


def story(rng: random.Random, count: int) -> Problem:
    """Somebody gains and loses things."""
    name, thing = rng.choice(list(NAMES)), rng.choice(THINGS)
    steps = draw_steps(rng, count, "+-")
    told = listed([f"{rng.choice(GAINS if step.sign == '+' else LOSSES)} {step.right}" for step in steps])
    question = f"{name} has {steps[0].left} {thing}. {NAMES[name]} {told}. How many {thing} now?"
    return Problem("story", question, steps)


def response(problem: Problem) -> str:
    """Return what the template makes of reasoning and answer."""
    return f"{problem.reasoning}\nTherefore, the final answer is: {problem.answer}"


def sample_problem(rng: random.Random, most_steps: int = STEPS[-1]) -> Problem:
    """Draw a problem; `most_steps` under six gives a short one, for a first lesson, whatever its length in tokens."""
    while True:
        count = rng.randint(min(STEPS[0], most_steps), most_steps)
        problem = rng.choice((puzzle, story))(rng, count)
        if most_steps < STEPS[0] or tokens(response(problem)) in RESPONSE:
            return problem


def sample_rows(split: Split, train: int, test: int, seed: int) -> Iterator[Problem]:
    """Yield problems with different questions until the split's hash has put so many into training and test."""
    rng, seen, missing = random.Random(seed), set[str](), {"train": train, "test": test}
    while any(missing.values()):
        problem = sample_problem(rng)
        question = normalise(problem.question)
        place = question_hash(question, split.seed) / 2**64
        name = "test" if place < split.test else "train" if place >= split.test + split.validation else "validation"
        if missing.get(name, 0) and question not in seen:
            missing[name] -= 1
            seen.add(question)
            yield problem


def write_rows(path: Path, split: Split, train: int, test: int, seed: int = 0) -> Path:
    """Write question, reasoning and answer of `sample_rows`."""
    rows = [
        {"question": p.question, "reasoning": p.reasoning, "answer": str(p.answer)}
        for p in sample_rows(split, train, test, seed)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return path


def main() -> None:
    """Print a few problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10, help="problems to print")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        problem = sample_problem(rng)
        print(f"{problem.kind} ({tokens(response(problem))}): {problem.question}\n    {response(problem)}")


if __name__ == "__main__":
    main()
