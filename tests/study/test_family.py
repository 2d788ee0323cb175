"""The family: Holm's correction, words, simultaneous limits, and equivalence as an answer of its own."""

import numpy as np
import pytest

from dreamtune.study.effects import Effect, method_effect
from dreamtune.study.family import holm, judge


def effect(value: float, p: float | None = None, error: float = 0.01, df: float = 200) -> Effect:
    """An effect of three seeds on 340 questions."""
    return Effect(value, error, 0.0, df, p, "t", (3,), 340, 340)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests() -> None:
    assert holm([0.02, 0.001, 0.5]) == pytest.approx([0.04, 0.003, 0.5])
    assert holm([0.4, 0.3, 0.2]) == pytest.approx([0.6, 0.6, 0.6])  # never decreasing
    assert holm([]) == [] and holm([0.9, 0.9]) == [1, 1]


def test_words_follow_the_adjusted_p() -> None:
    judged = judge({"a": effect(0.1, 0.01), "b": effect(-0.1, 0.02), "c": effect(0.1, 0.03), "d": effect(0, 0.9)}, {})
    assert [(j.word, round(j.p_adjusted or 0, 3)) for j in judged.values()] == [
        ("improved", 0.04),
        ("no evidence of change", 0.06),
        ("no evidence of change", 0.06),
        ("no evidence of change", 0.9),
    ]
    assert judge({"b": effect(-0.1, 0.02)}, {})["b"].word == "worse"


def test_grid_points_outside_of_the_family_have_no_word_and_cost_it_nothing() -> None:
    judged = judge({"a": effect(0.1, 0.04)}, {"x": effect(0.3, 1e-9), "y": effect(0.2, 1e-9)})
    assert judged["a"].word == "improved"
    assert (judged["x"].role, judged["x"].word, judged["x"].p_adjusted) == ("exploratory", "exploratory", None)
    assert judged["x"].simultaneous == effect(0.3, 1e-9).limits(0.05 / 2)


def test_simultaneous_limits_are_wider_than_those_of_one_comparison() -> None:
    judged = judge({name: effect(0.1, 0.01) for name in "abc"}, {})["a"]
    assert judged.interval == effect(0.1, 0.01).limits(0.05)
    assert judged.simultaneous == effect(0.1, 0.01).limits(0.05 / 3)


def test_an_untested_comparison_still_counts_in_the_family() -> None:
    judged = judge({"a": effect(0.1, 0.03), "b": effect(0.1, None)}, {})
    assert (judged["a"].p_adjusted, judged["b"].word, judged["b"].p_adjusted) == (0.06, "not tested", None)


@pytest.mark.parametrize(
    ("value", "answer"), [(0.0, "equivalent"), (0.1, "no worse"), (-0.02, "not shown"), (-0.1, "not shown")]
)
def test_no_worse_is_shown_by_its_own_tests(value: float, answer: str) -> None:
    found = judge({"a": effect(value, 0.5)}, {}, margin=0.03)["a"].equivalence
    assert found is not None and found.answer == answer


def test_that_nothing_was_found_is_no_answer_to_no_worse() -> None:
    found = judge({"a": effect(0.0, 1.0, error=0.05)}, {}, margin=0.03)["a"]
    assert found.word == "no evidence of change" and found.equivalence is not None
    assert found.equivalence.answer == "not shown"
    assert judge({"a": effect(0.0, 1.0)}, {})["a"].equivalence is None


def test_equivalence_is_corrected_over_the_family() -> None:
    """A lower limit 2.1 standard errors above the margin suffices for one comparison, not for each of two."""
    close = effect(-0.03 + 2.1 * 0.01, 0.5)
    alone, one_of_two = judge({"a": close}, {}, margin=0.03), judge({"a": close, "b": close}, {}, margin=0.03)
    assert [j["a"].equivalence.answer for j in (alone, one_of_two) if j["a"].equivalence] == ["equivalent", "not shown"]


def test_any_false_improved_of_nine_nulls_stays_below_the_level() -> None:
    """The benchmark's table at toy scale; without Holm some 12 % of studies say "improved" somewhere."""
    rng, words, raw = np.random.default_rng(2), 0, 0
    for _ in range(120):
        base, tuned = rng.random(100) < 0.4, rng.random((9, 100)) < 0.4
        effects = {str(i): method_effect(tuned[i : i + 1] - base.astype(float)) for i in range(9)}
        words += any(one.word == "improved" for one in judge(effects, {}).values())
        raw += any((e.p or 1) < 0.05 and e.value > 0 for e in effects.values())
    assert words <= 9 < raw
