"""Which answers mean the same."""

import pytest

from conftest import ROOT
from dreamtune.scoring.equivalence import equivalent

EQUAL = [
    ("0.5", r"\frac{1}{2}"), ("1,000", "1000"), ("18.0", "18"), (r"\$18.90", "18.9"), ("12 cm", "12"), ("4 2", "42"),
    (r"120\text{ minutes}", "120"), ("50%", "50"), (r"50\%", "0.5"), ("x=5", "5"), ("3, 5, 7", "7, 3, 5"),
    (r"\text{(C)}", "C"), ("(b)", "B"), ("B. because", "B"), (r"\text{East}", "east"), ("[1,2)", "[1, 2)"),
    (r"90^\circ", "90"), (r"\sqrt{50}", r"5\sqrt{2}"), ("7i - 2", "-2+7i"), (r"x \in [-2,7]", "[-2,7]"),
    ("$12$.", "12"), ("−3", "-3"), (r"\dfrac{3}{4}", r"\frac 34"), ("Juan Pérez", "juan  pérez"), ("2(x+1)", "2x+2"),
]  # fmt: skip
DIFFERENT = [
    ("4 2", "6"), ("42", "43"), ("Navin", "Vanni"), ("5x", "5"), ("(1,2)", "[1,2]"), ("A", "B"), ("5 million", "5"),
    ("0.33", r"\frac{1}{3}"), ("", "5"), ("2,3", "2,4"), ("-5", "5"), ("x+1", "x-1"), ("north", "5"), ("50%", "0.05"),
]  # fmt: skip


def pairs(name: str) -> list[tuple[str, str]]:
    """Return (answer, reference) of each line `answer ~ reference`; a line that starts with # is a heading."""
    lines = (ROOT / "tests/fixtures" / name).read_text(encoding="utf-8").splitlines()
    cases = [line.partition(" ~ ") for line in lines if not line.startswith("#")]
    return [(answer, reference) for answer, _, reference in cases]


@pytest.mark.parametrize(("answer", "reference"), EQUAL + pairs("same_answers.txt"))
def test_equal(answer: str, reference: str) -> None:
    assert equivalent(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT + pairs("different_answers.txt"))
def test_different(answer: str, reference: str) -> None:
    assert not equivalent(answer, reference)
