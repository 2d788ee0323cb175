"""The best of several points of a grid, without overstating it.

The best of nine equal points looks better than it is by its luck on the questions that chose it. Either it is chosen on
validation answers and its gain is measured on other questions (`choose`, `confirm`), or all points were looked at on
the test questions (`looked_at_all`): its gain is then overstated, and the intervals are those that hold for all points
together, so that they hold for the best one, too (Bonferroni, on t).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dreamtune.errors import UserError
from dreamtune.settings.study import FEWEST_QUESTIONS
from dreamtune.study.effects import Effect


@dataclass(frozen=True)
class Choice:
    """Who won, and on what.

    Attributes:
        winner: the candidate with the largest mean; of equal ones, the first.
        means: mean over questions (and seeds) of each candidate.
        questions: how many questions chose.
        split: "validation" or "test".
    """

    winner: str
    means: dict[str, float]
    questions: int
    split: str


@dataclass(frozen=True)
class Stated:
    """The winner's gain on the test questions, as it may be stated.

    Attributes:
        choice: how it was chosen.
        effect: of the winner.
        limits: of level 1 − alpha.
        label: what kind of limits these are, in words.
    """

    choice: Choice
    effect: Effect
    limits: tuple[float, float]
    label: str


def choose(values: Mapping[str, ArrayLike], fewest: int = FEWEST_QUESTIONS) -> Choice:
    """Return the candidate with the best validation answers.

    >>> choose({"small": [[0, 1] * 100], "large": [[1, 1, 0, 1] * 50]}).winner
    'large'

    Args:
        values: by candidate, [seeds, questions]: 1 for a right answer, or any other measure of which more is better.
        fewest: questions that it takes.

    Raises:
        UserError: there are fewer questions.
        ValueError: there are no candidates, or they did not answer the same number of questions.
    """
    choice = _best(values, "validation")
    if choice.questions < fewest:
        raise UserError(
            f"{len(values)} points are to be chosen from on {choice.questions} validation questions, but at least "
            f"{fewest} are needed; raise data.split.validation, or set study.choose: test"
        )
    return choice


def confirm(choice: Choice, effect: Effect, alpha: float = 0.05) -> Stated:
    """Return the gain of the winner alone, measured on questions that did not choose it: nothing is to be corrected.

    It is the gain of the adapters that were chosen among. A method whose seeds were lucky on the validation answers is
    as lucky on the test's: a gain of the method itself takes seeds that were trained after the choice.

    Args:
        choice: made on validation answers.
        effect: of the winner on the test questions.
    """
    label = f"chosen among {len(choice.means)} on {choice.questions} validation questions, measured on the test's"
    return Stated(choice, effect, effect.limits(alpha), label)


def looked_at_all(
    effects: Mapping[str, Effect], alpha: float = 0.05, reached: Mapping[str, float] | None = None
) -> Stated:
    """Return the best of candidates that were all measured on the test questions, with simultaneous limits.

    With probability 1 − alpha, the limits of `effect.limits(alpha / number of candidates)` hold for every candidate.

    Args:
        effects: of each candidate on the test questions, by name: its gain over its own base.
        reached: by what they are ranked, of which more is better: what each candidate itself reached. Bases can differ:
            a gain of 15 points over 0 % is less than one of 12 over 5 %. None ranks by the gains.

    Raises:
        ValueError: there are no candidates.
    """
    means = dict(reached) if reached is not None else {name: effect.value for name, effect in effects.items()}
    winner, m = _largest(means), len(effects)
    effect = effects[winner]
    label = f"the best of {m} on the questions that measure it, so its gain is overstated; limits for all {m} together"
    return Stated(Choice(winner, means, effect.questions, "test"), effect, effect.limits(alpha / m), label)


def _best(values: Mapping[str, ArrayLike], split: str) -> Choice:
    arrays = {name: np.atleast_2d(np.asarray(value, float)) for name, value in values.items()}
    numbers = {array.shape[1] for array in arrays.values()}
    if len(numbers) != 1:
        raise ValueError(f"candidates must answer the same questions, not {sorted(numbers)}")
    means = {name: float(array.mean()) for name, array in arrays.items()}
    return Choice(_largest(means), means, numbers.pop(), split)


def _largest(means: Mapping[str, float]) -> str:
    if not means:
        raise ValueError("there are no candidates to choose from")
    return max(means, key=lambda name: means[name])
