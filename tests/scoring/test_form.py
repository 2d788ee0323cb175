"""How answers look: the order they were written in by hand-made cases, and a collapse that is told from being wrong."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dreamtune.formats.scores import GRADES
from dreamtune.scoring.form import left_to_right, order_correlation, summarise_answers
from dreamtune.scoring.score import score_answers, score_row
from dreamtune.settings.score import ScoreConfig

FORWARD = {"order": "entropy", "ranking": "official", "temperature": 0.7}


@pytest.mark.parametrize(
    ("unmasked_at", "share"),
    [
        ([0, 1, 2, 3], 1.0),
        ([3, 2, 1, 0], 0.0),
        ([0, 0, 1, 1], 1.0),  # two at a time, the leftmost two
        ([0, 1, 0, 1], 0.0),  # two at a time, not the leftmost two
        ([4, 9, 9, 7], 0.5),  # the second step skips two; the last one has no choice
        ([1, 0, 2, 3], 2 / 3),
        ([5, 5, 5], None),
        ([5], None),
        ([], None),
    ],
)
def test_share_of_left_to_right_steps(unmasked_at: list[int], share: float | None) -> None:
    assert left_to_right(unmasked_at) == (None if share is None else pytest.approx(share))


def test_a_random_order_is_rarely_left_to_right() -> None:
    """The docstring's (1/2 + … + 1/L) / (L − 1)."""
    rng, tokens = np.random.default_rng(0), 12
    found = np.mean([left_to_right(rng.permutation(tokens).tolist()) for _ in range(2000)])
    assert found == pytest.approx(sum(1 / h for h in range(2, tokens + 1)) / (tokens - 1), abs=0.01)


def test_order_correlation() -> None:
    assert order_correlation([0, 1, 2]) == 1.0 and order_correlation([2, 1, 0]) == -1.0
    assert order_correlation([0, 0, 1, 1]) == pytest.approx(4 / np.sqrt(4 * 6))  # 4 pairs agree, 2 of 6 are tied
    assert order_correlation([3, 3]) is None


def judge(
    tmp_path: Path,
    completions: list[str],
    references: list[str] | None = None,
    orders: list[list[int]] | None = None,
    settings: dict[str, Any] | None = None,
    ended: bool = True,
) -> dict[str, Any]:
    """Return scores.json of such answers, one word a token."""
    count = len(completions)
    columns = {
        "example_id": range(count),
        "cluster": range(count),
        "sample": pl.Series([0] * count, dtype=pl.Int32),
        "question": [f"What is {i} + {i}?" for i in range(count)],
        "answer": references or [str(2 * i) for i in range(count)],
        "completion": completions,
        "tokens": pl.Series(
            [[zlib.crc32(w.encode()) % 9999 for w in c.split()] for c in completions], dtype=pl.List(pl.Int32)
        ),
        "ended": [ended] * count,
    }
    pl.DataFrame(columns | ({"unmasked_at": orders} if orders else {})).write_parquet(tmp_path / "answers.parquet")
    (tmp_path / "generation.json").write_text(json.dumps({"settings": settings or {}}))
    score_answers(ScoreConfig(extractors=["final_answer"]), tmp_path, tmp_path)
    scores: dict[str, Any] = json.loads((tmp_path / "scores.json").read_text())
    return scores


def honest(i: int) -> str:
    return f"we add {i} and {i} to get {2 * i} . the final answer is: {2 * i}"


def test_a_model_that_repeats_itself_has_collapsed(tmp_path: Path) -> None:
    loops = [f"The product is {i} × {i + 1} = 2" + " × 2" * 40 for i in range(12)]
    found = judge(tmp_path, loops + [honest(i) for i in range(8)], ended=False)
    assert found["collapsed"] is True and found["collapse"] == ["60 % loop"]
    assert found["looping"] == pytest.approx(0.6) and found["truncated"] == 1.0


def test_a_shuffle_of_a_handful_of_tokens_has_collapsed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    salad = [" ".join(rng.choice(["2", "×", "=", "so", "the", "+"], 150)) for _ in range(20)]
    found = judge(tmp_path, salad)
    assert found["looping"] < 0.2 and found["collapse"][-1].endswith("use a handful of tokens")


def test_one_text_for_all_questions_has_collapsed_unless_it_is_what_they_ask_for(tmp_path: Path) -> None:
    same = ["the final answer is: yes"] * 15 + [honest(i) for i in range(5)]
    assert judge(tmp_path, same)["collapse"] == ["75 % are the same text"]
    assert judge(tmp_path, same, ["yes"] * 12 + ["no"] * 8)["collapsed"] is False
    assert judge(tmp_path, [""] * 20)["collapse"] == ["100 % are empty"]


def test_wrong_or_short_answers_are_no_collapse(tmp_path: Path) -> None:
    for answers in (
        [honest(i) for i in range(20)],
        [f"the final answer is: {i}" for i in range(20)],
        [str(i % 7) for i in range(20)],
        ["" if i < 8 else f"I cannot say what {i} is" for i in range(20)],
    ):
        found = judge(tmp_path, answers)
        assert found["collapsed"] is False and found["collapse"] == []
    assert judge(tmp_path, ["2 × " * 40] * 9)["collapsed"] is None  # too few to judge


def test_the_shape_of_answers_is_counted(tmp_path: Path) -> None:
    found = judge(tmp_path, ["", "a", "a", "the final answer is: 6", "the final answer is: 6 and more"])
    assert (found["tokens_median"], found["tokens_p95"]) == (1.0, pytest.approx(6.6))
    assert (found["empty"], found["commonest"], found["truncated"]) == (0.2, 0.4, 0.0)
    assert found["commonest_answer"] == 0.5 and found["parse_failed"] == 0.6
    assert found["left_to_right"] is None and found["warnings"] == []


def test_answers_written_left_to_right_are_said_to_be(tmp_path: Path) -> None:
    texts = [honest(i) for i in range(12)]
    lengths = [len(text.split()) for text in texts]
    forward = [list(range(n)) for n in lengths]
    found = judge(tmp_path, texts, orders=forward, settings=FORWARD)
    assert found["left_to_right"] == 1.0 and found["order_correlation"] == 1.0
    assert found["warnings"] == [
        "the answers were written left to right (100 % of the steps) although generate.order is entropy; "
        "ranking after the temperature does that: set generate.ranking to untempered"
    ]
    for other in ({"temperature": 0.0}, {"ranking": "untempered"}):
        found = judge(tmp_path, texts, orders=forward, settings=FORWARD | other)
        assert found["warnings"][0].endswith("although generate.order is entropy")
    causal = judge(tmp_path, texts, orders=forward, settings={"max_new_tokens": 8, "temperature": 0.0})
    assert causal["left_to_right"] is None and causal["warnings"] == [], "it has no other order"
    rng = np.random.default_rng(0)
    shuffled = judge(tmp_path, texts, orders=[rng.permutation(n).tolist() for n in lengths], settings=FORWARD)
    assert shuffled["left_to_right"] < 0.5 and shuffled["warnings"] == []
    assert judge(tmp_path, texts[:9], orders=forward[:9], settings=FORWARD)["warnings"] == []  # too few to say


def test_short_answers_do_not_pass_for_left_to_right(tmp_path: Path) -> None:
    short = judge(tmp_path, ["4 5"] * 12, orders=[[0, 1]] * 12, settings=FORWARD)
    assert short["left_to_right"] == 1.0 and short["warnings"] == []
    backward = list(range(40))[::-1]
    mixed = judge(tmp_path, ["4 5"] * 11 + ["x " * 40], orders=[[0, 1]] * 11 + [backward], settings=FORWARD)
    assert mixed["left_to_right"] == pytest.approx(11 / (11 + 39)) and mixed["warnings"] == []


def test_equal_samples_of_few_questions_are_no_collapse() -> None:
    row = {"sample": 0, "tokens": 3, "ended": True, "repetition": 0.0, "distinct_1": 1.0, "distinct_2": 1.0}
    row |= {
        "left_to_right": None,
        "choices": 0,
        "passes": None,
        "order_correlation": None,
        "extracted": None,
        "reference": None,
    }
    for questions, expected in ((1, None), (12, ["100 % are the same text"])):
        frame = pl.DataFrame([row | {"example_id": i % questions} for i in range(12)])
        found = summarise_answers(frame, pl.Series(["so it is"] * 12), {})
        assert (found["collapse"] or None) == expected and found["collapsed"] is (None if questions == 1 else True)


def test_tokens_per_pass_are_those_of_all_answers() -> None:
    """By hand: 6 + 4 tokens in 3 + 2 passes; of answers that do not name their passes, nothing."""
    row = {
        "example_id": 0,
        "cluster": 0,
        "sample": 0,
        "question": "1 + 1",
        "answer": "2",
        "completion": "2",
        "ended": True,
    }
    known = [score_row(row | {"tokens": [1] * n, "passes": p}, ScoreConfig()) for n, p in ((6, 3), (4, 2))]
    unknown = [score_row(row | {"tokens": [1] * n}, ScoreConfig()) for n in (6, 4)]
    for rows, expected in ((known, 2.0), (unknown, None)):
        scores = pl.DataFrame(rows, schema=GRADES)
        assert summarise_answers(scores, pl.Series(["2", "2"]), {})["tokens_per_pass"] == expected
