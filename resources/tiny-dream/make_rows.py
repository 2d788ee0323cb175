"""Write rows.parquet: problems of two and three steps in the columns of s1K-1.1.

Rows are drawn until the split of the demonstration (by hash of the question, seed 0, test 25 %, validation 2.5 %) has
exactly 1,000 training, 32 validation and 340 test rows.

    python resources/tiny-dream/make_rows.py
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from library import normalise, question_hash
from problems import Problem, sample_problem

HERE = Path(__file__).resolve().parent
ROWS = HERE / "rows.parquet"
SEED, SPLIT_SEED, TEST, VALIDATION = 20, 0, 0.25, 0.025
WANTED = {"test": 340, "validation": 32, "train": 1000}
THREE_STEPS = 0.4  # share of the rows
# The template the rows are meant for; the base model has never seen it.
TEMPLATE = "Question: {question}\nLet's think step by step.\n{reasoning}\nTherefore, the final answer is: {answer}"
SIGNS = {
    "+": "Adding {1} to {0}",
    "-": "Taking {1} from {0}",
    "*": "Multiplying {0} by {1}",
    "/": "Dividing {0} by {1}",
}


def split_of(question: str) -> str:
    """Return which split a question falls into, as the workflow decides it."""
    place = question_hash(question, SPLIT_SEED) / 2**64
    return "test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"


def sample_rows(seed: int = SEED) -> Iterator[Problem]:
    """Yield problems with different questions until every split has what is `WANTED`."""
    rng, seen, missing = random.Random(seed), set(), dict(WANTED)
    while any(missing.values()):
        problem = sample_problem(rng, 3 if rng.random() < THREE_STEPS else 2)
        split, question = split_of(problem.question), normalise(problem.question)
        if missing[split] and question not in seen:
            missing[split] -= 1
            seen.add(question)
            yield problem


def as_row(problem: Problem) -> dict[str, str]:
    """Return the 13 columns of s1K-1.1; both "models" are the generator itself, in two wordings."""
    told = " ".join(f"{SIGNS[s.sign].format(s.left, s.right)} gives {s.result}." for s in problem.steps)
    attempt = f"The final answer is {problem.answer}."
    return {
        "solution": str(problem.answer),
        "question": problem.question,
        "cot_type": "math",
        "source_type": f"dreamtune/tiny-dream/{problem.kind}",
        "metadata": str({"kind": problem.kind, "steps": len(problem.steps)}),
        "gemini_thinking_trajectory": told,
        "gemini_attempt": f"{told} {attempt}",
        "deepseek_thinking_trajectory": problem.reasoning,
        "deepseek_attempt": f"{problem.reasoning} {attempt}",
        "gemini_grade": "Yes",
        "gemini_grade_reason": f"The attempt's answer and the reference are both {problem.answer}.",
        "deepseek_grade": "Yes",
        "deepseek_grade_reason": f"The attempt's answer and the reference are both {problem.answer}.",
    }


def make_table(seed: int = SEED) -> pa.Table:
    """Return all rows as a table of strings."""
    rows = [as_row(problem) for problem in sample_rows(seed)]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.large_string()) for name in rows[0]]))


def read_questions(path: Path = ROWS) -> list[str]:
    """Return the questions of the rows that were written."""
    return pq.read_table(path, columns=["question"])["question"].to_pylist()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROWS, help="parquet file to write")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the generator")
    args = parser.parse_args()
    table = make_table(args.seed)
    pq.write_table(table, args.out, compression="zstd")
    print(f"{table.num_rows} rows in {args.out}")


if __name__ == "__main__":
    main()
