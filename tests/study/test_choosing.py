"""The best of several points: chosen on validation and confirmed on test, or all looked at on test."""

import numpy as np
import pytest

from dreamtune.errors import UserError
from dreamtune.study.choosing import choose, confirm, looked_at_all
from dreamtune.study.effects import method_effect

RNG = np.random.default_rng(1)


def test_the_winner_has_the_best_validation_answers_and_the_first_of_equal_ones_wins() -> None:
    right = np.zeros((2, 200))
    right[:, :50] = 1
    choice = choose({"a": right, "b": right + 0.1, "c": right + 0.1})
    assert (choice.winner, choice.questions, choice.split) == ("b", 200, "validation")
    assert choice.means["a"] == pytest.approx(0.25)


def test_too_few_validation_questions_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="on 34 validation questions, but at least 200 are needed"):
        choose({"a": np.zeros(34), "b": np.ones(34)})


def test_candidates_must_answer_the_same_questions() -> None:
    with pytest.raises(ValueError, match=r"not \[200, 300\]"):
        choose({"a": np.zeros(200), "b": np.ones(300)})
    with pytest.raises(ValueError):
        choose({})


def test_the_confirmed_gain_is_not_corrected_and_says_how_it_was_chosen() -> None:
    choice = choose({"a": np.ones(250), "b": np.zeros(250)})
    effect = method_effect(RNG.choice([0.0, 1.0], (1, 340)))
    stated = confirm(choice, effect)
    assert stated.limits == effect.limits(0.05)
    assert stated.label == "chosen among 2 on 250 validation questions, measured on the test's"


def test_the_best_of_all_on_test_has_limits_for_all_together() -> None:
    effects = {name: method_effect(RNG.choice([0.0, 1.0], (1, 340))) for name in "abcdefghi"}
    stated = looked_at_all(effects)
    best = max(effects, key=lambda name: effects[name].value)
    assert stated.choice.winner == best and stated.choice.split == "test"
    assert stated.limits == effects[best].limits(0.05 / 9)
    assert stated.label.startswith("the best of 9 on the questions that measure it, so its gain is overstated")
