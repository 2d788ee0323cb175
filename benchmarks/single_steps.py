"""Write the single steps of worked problems as questions of their own, for models that cannot solve the problems yet.

"Natalia sold 48/2 = 24 clips in May." becomes the question "How much is 48/2?" with the working "48/2 = 24" and the
answer "24". Each calculation becomes one row, however often it occurs; those whose result is not what stands there are
left out.

All these questions are made from one template, so that without a column of clusters the intervals would take them for
one single observation. The column `calculation` is such a column: 48/2 is another observation than 7*5, but 7*5 and 5*7
are one. What is then said is about further calculations of this kind.

usage   python benchmarks/single_steps.py data/gsm8k_train.parquet data/steps.parquet
        then    data: {files: [data/steps.parquet],
                       columns: {question: question, reasoning: working, answer: answer, cluster: calculation}}
"""

import argparse
import ast
import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import polars as pl

STEP = re.compile(r"(?<![\w.,/*+-])(\d[\d.]*(?: ?[-+*/] ?\d[\d.]*)+) ?= ?\$?(\d[\d.]*)(?!\d|,\d|%| ?[-+*/])")
PARTS = re.compile(r"[\d.]+|[-+*/]")
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def main() -> None:
    """Write the file, and print how many rows it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", type=Path, help="parquet file of problems")
    parser.add_argument("steps", type=Path, help="parquet file that is written")
    parser.add_argument("--column", default="gemini_thinking_trajectory", help="that holds the working")
    arguments = parser.parse_args()
    rows = single_steps(pl.read_parquet(arguments.problems)[arguments.column].drop_nulls().to_list())
    rows.write_parquet(arguments.steps)
    print(f"{rows.height} questions")


def single_steps(texts: list[str]) -> pl.DataFrame:
    """Return a row for each calculation in some texts, in order of appearance.

    Its columns are `question`, `working`, `answer`, and `calculation`: the numbers and signs, sorted.

    >>> single_steps(["So 48/2 = 24, and 48 + 24 = $72. Then 7*2=15 is wrong."]).rows()
    [('How much is 48/2?', '48/2 = 24', '24', '/ 2 48'), ('How much is 48+24?', '48+24 = 72', '72', '+ 24 48')]
    """
    found = {given.replace(" ", ""): result.rstrip(".") for text in texts for given, result in STEP.findall(text)}
    right = [(given, result) for given, result in found.items() if given[-1] != "." and value(given) == value(result)]
    return pl.DataFrame(
        [(f"How much is {given}?", f"{given} = {result}", result, kind(given)) for given, result in right],
        schema=["question", "working", "answer", "calculation"],
        orient="row",
    )


def kind(given: str) -> str:
    """Return a calculation's signs and numbers, sorted: the same for 7*5 and 5*7."""
    return " ".join(sorted(PARTS.findall(given)))


def value(text: str) -> Fraction | None:
    """Return the exact value of a calculation with + - * /; None if it has none.

    >>> value("48/2+0.5")
    Fraction(49, 2)
    """
    try:
        return next(_values(ast.parse(text, mode="eval").body))
    except (SyntaxError, ZeroDivisionError, StopIteration):
        return None


def _values(node: ast.expr) -> Iterator[Fraction]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield Fraction(str(node.value))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        for left in _values(node.left):
            yield from (OPERATIONS[type(node.op)](left, right) for right in _values(node.right))


if __name__ == "__main__":
    main()
