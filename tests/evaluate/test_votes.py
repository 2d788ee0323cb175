"""pass@k by enumeration, which answers are one answer, who wins the vote, and what is compared of both models."""

from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl
import pytest

from dreamtune.evaluate.comparison import compare_samples, compare_scores
from dreamtune.evaluate.votes import majority, numbers_of_tries, pass_at_k
from dreamtune.formats.scores import UNDECIDED
from dreamtune.scoring import meaning
from dreamtune.scoring.equivalence import equivalent
from dreamtune.scoring.meaning import classes_of_answers, group_by_meaning
from dreamtune.settings.report import Comparison

FAST = Comparison(resamples=400)


def scores(answers: list[list[str | None]], reference: str = "4") -> pl.DataFrame:
    """Rows of scores.parquet for the samples of each question; graded as they would be."""
    rows = [
        {"example_id": i, "cluster": i, "sample": j, "gradable": True, "extracted": answer}
        | {"correct": answer is not None and equivalent(answer, reference)}
        for i, samples in enumerate(answers)
        for j, answer in enumerate(samples)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"extracted": pl.String})
    return frame.join(classes_of_answers(frame, 1.0), on=["example_id", "sample"], maintain_order="left")


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer() -> None:
    for n, k in ((5, 1), (5, 2), (5, 5), (6, 3)):
        for right in range(n + 1):
            exact = np.mean([any(i < right for i in draw) for draw in combinations(range(n), k)])
            assert pass_at_k([n], [right], k)[0] == pytest.approx(exact)
    assert pass_at_k([2000], [1], 1000)[0] == pytest.approx(0.5)  # where C(n, k) overflows
    with pytest.raises(ValueError, match="needs 3 samples"):
        pass_at_k([2], [1], 3)


def test_pass_at_k_is_unbiased() -> None:
    """The plug-in 1 − (1 − c/n)^k is not."""
    share, n, k = 0.3, 5, 4
    chances = [np.prod([share if hit else 1 - share for hit in hits]) for hits in product([0, 1], repeat=n)]
    right = [sum(hits) for hits in product([0, 1], repeat=n)]
    assert np.dot(chances, pass_at_k(np.full(len(right), n), right, k)) == pytest.approx(1 - (1 - share) ** k)


def test_the_numbers_of_tries_end_with_all() -> None:
    assert [numbers_of_tries(n) for n in (0, 1, 8, 12)] == [[], [1], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


def test_answers_of_one_meaning_are_one_class() -> None:
    assert group_by_meaning(["1,000", "1000.0", "$1000$", "x+1", "1 + x", None, "x-1"], 1.0) == [0, 0, 0, 1, 1, None, 2]
    assert group_by_meaning(["Yes.", "yes", "no"], 1.0) == [0, 0, 1]
    assert group_by_meaning([None, None], 1.0) == [None, None]
    hostile = [rf"9^{{9^{{9^{n}}}}}" for n in range(40)]
    assert group_by_meaning(hostile, 1.0) == list(range(40))


def test_the_majority_wins_by_meaning_and_the_unparsed_do_not_vote() -> None:
    frame = scores([
        ["5", "4", "4.0", "5", "4"],  # 3 of 5 for 4, one of them in another form
        ["4", None, None, None, "5"],  # a tie: the first
        ["4", None, "5", None, "5"],
        [None] * 5,
    ])  # fmt: skip
    assert majority(frame).rows() == [(0, 0, True), (1, 1, True), (2, 2, False), (3, 3, False)]
    assert majority(scores([["4", "5"], ["5", "4"]])).rows() == [(0, 0, True), (1, 1, False)]  # ties
    ungradable = frame.with_columns(gradable=pl.col("example_id") > 1)
    assert majority(ungradable)["example_id"].to_list() == [2, 3]


@pytest.mark.parametrize(
    ("reference", "answers"),
    [
        ("5 cm", ["5 m", "5 cm", "5 cm"]),
        ("5 euros", ["5 dollars", "5 euros", "5 euros"]),
        ("B", ["12", "(B) 12", "(B) 12"]),
        ("yes", ["yes, because it is", "yes", "no", "no", "yes"]),
        ("yes", ["yes", "yes, because it is", "no"]),
        ("1.5 m", ["150 cm", "1.5 m", "3 m"]),
    ],
)
def test_votes_follow_the_grades(reference: str, answers: list[str | None]) -> None:
    assert majority(scores([answers], reference)).rows() == [(0, 0, True)]


def test_a_model_that_is_right_more_often_than_not_gains_by_voting() -> None:
    rng = np.random.default_rng(0)

    def answers(share: float) -> list[list[str | None]]:
        return [[("4" if rng.random() < share else str(rng.integers(10, 99))) for _ in range(8)] for _ in range(60)]

    base, tuned = scores(answers(0.2)), scores(answers(0.6))
    block = compare_samples(base, tuned, FAST)
    assert list(block["pass_at_k"]) == ["1", "2", "4", "8"]
    assert block["pass_at_k"]["1"] == compare_scores(base, tuned, "correct", FAST)
    found = [block["pass_at_k"][k]["tuned"]["value"] for k in ("1", "2", "4", "8")]
    assert found[0] == pytest.approx(0.6, abs=0.1) and found == sorted(found)
    assert block["pass_at_k"]["4"]["gain"]["test"] == "paired permutation over questions"
    vote: Any = block["majority"]
    assert vote["tuned"]["value"] > 0.9 and vote["gain"]["test"] == "exact McNemar" and vote["samples"] == 8
    assert vote["gain"]["low"] > 0 and vote["gain"]["p"] < 1e-6


def test_two_samples_vote_too() -> None:
    block = compare_samples(scores([["4", "5"], ["5", "5"]]), scores([["4", "5"], ["4", "4"]]), FAST)
    assert list(block["pass_at_k"]) == ["1", "2"] and block["majority"]["gain"]["won"] == 1


def test_one_sample_has_pass_at_1_and_no_vote() -> None:
    base, tuned = scores([["4"], ["5"], ["5"]]), scores([["4"], ["4"], [None]])
    block = compare_samples(base, tuned, FAST)
    assert block == {"pass_at_k": {"1": compare_scores(base, tuned, "correct", FAST)}, "majority": None}
    nobody = base.with_columns(gradable=False)
    assert compare_samples(nobody, nobody, FAST) == {"pass_at_k": {}, "majority": None}


def test_an_answer_undecided_beside_another_leaves_no_majority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = {("f(x)", "g(x)"), ("g(x)", "f(x)"), ("g(x)", "h(x)"), ("5", "f(x)")}  # the last one way only
    decided = equivalent
    monkeypatch.setattr(meaning, "equivalent", lambda a, b, t: None if (a, b) in slow else decided(a, b, t))
    assert group_by_meaning(["f(x)", "g(x)", "4", "g(x)", None], 1.0) == [0, UNDECIDED, 1, UNDECIDED, None]
    assert group_by_meaning(["f(x)", "5", "4", "5.0"], 1.0) == [0, UNDECIDED, 1, UNDECIDED]
    # What equals a later answer belongs to it, whatever stays undecided beside an earlier one.
    assert group_by_meaning(["h(x)", "x+y", "g(x)", "y+x"], 1.0) == [0, 1, UNDECIDED, 1]
    frame = scores([["4", "5", "4", "4"], ["f(x)", "g(x)", "4", "4"], [None, None, None, None]])
    assert majority(frame).rows() == [(0, 0, True), (1, 1, None), (2, 2, False)]
    block: Any = compare_samples(frame, scores([["4"] * 4] * 3), FAST)
    assert (block["majority"]["questions"], block["majority"]["undecided"]) == (2, 1)
    assert block["pass_at_k"]["4"]["questions"] == 3 and block["pass_at_k"]["4"]["undecided"] == 0


def test_a_question_with_an_undecided_answer_is_left_out_on_both_sides() -> None:
    frames = scores([["4", "4"], ["4", "5"], ["5", "4"]]), scores([["4", "4"], ["5", "5"], ["4", "4"]])
    for place, (left, other) in enumerate((frames, frames[::-1])):
        row = (pl.col("example_id") == 1) & (pl.col("sample") == place)
        doubtful = left.with_columns(correct=pl.when(~row).then("correct"))
        sides = (doubtful, other) if place == 0 else (other, doubtful)
        base, tuned = (frame.filter(pl.col("example_id") != 1) for frame in frames)
        block = compare_scores(*sides, "correct", FAST)
        assert block.pop("undecided") == 1
        assert block == {k: v for k, v in compare_scores(base, tuned, "correct", FAST).items() if k != "undecided"}
        found: Any = compare_samples(*sides, FAST)
        assert found["majority"]["undecided"] == 1 and found["majority"]["questions"] == 2
        assert {k: b["questions"] for k, b in found["pass_at_k"].items()} == {"1": 2, "2": 2}
    nobody = frames[0].with_columns(correct=pl.lit(None, pl.Boolean))
    block = compare_scores(nobody, frames[1], "correct", FAST)
    assert (block["gain"]["value"], block["questions"], block["undecided"]) == (None, 0, 3)
    assert compare_samples(nobody, frames[1], FAST)["majority"] is None
