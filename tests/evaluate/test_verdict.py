"""Each of the five verdicts, what makes one invalid, and how often chance alone is called an improvement."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from conftest import FIXTURES
from dreamtune.errors import UserError
from dreamtune.evaluate.comparison import compare_nll, compare_scores, nothing
from dreamtune.evaluate.verdict import Verdict, decide
from dreamtune.settings.report import Comparison

FAST = Comparison(resamples=400)
PAIRS = FIXTURES / "demo_pairs.csv"  # of every held-out row of a finished `make demo`
HARD = {"name": "targets_hidden", "hard": True, "passed": True, "value": 0, "expected": "0 of 812", "source": "full"}
SOFT = HARD | {"name": "shuffled prompts hurt", "hard": False, "source": "likelihood"}


def scores(correct: np.ndarray, samples: int = 1, gradable: bool = True) -> pl.DataFrame:
    ids = np.repeat(np.arange(len(correct) // samples), samples)
    sample = np.tile(np.arange(samples), len(correct) // samples)
    columns = {"example_id": ids, "cluster": ids, "sample": sample, "correct": correct.astype(bool)}
    return pl.DataFrame(columns).with_columns(gradable=pl.lit(gradable))


def accuracy(base: np.ndarray, tuned: np.ndarray, samples: int = 1) -> dict[str, Any]:
    return compare_scores(scores(base, samples), scores(tuned, samples), "correct", FAST)


def changed(won: int, lost: int, n: int = 300) -> dict[str, Any]:
    """A block with so many wins and losses among n questions, half of the others right."""
    base, tuned = np.zeros(n), np.zeros(n)
    tuned[:won], base[won : won + lost] = 1, 1
    base[won + lost :: 2], tuned[won + lost :: 2] = 1, 1
    return accuracy(base, tuned)


def nll(change: float, rows: int = 60, noise: float = 0.1, comparison: Comparison = FAST) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    base = rng.gamma(5, 2, rows)
    frame = {"example_id": np.arange(rows), "cluster": np.arange(rows), "draw": np.zeros(rows, int)}
    frame |= {"response_tokens": np.full(rows, 10)}
    tuned = base + 10 * (change + noise * rng.normal(size=rows))
    return compare_nll(pl.DataFrame(frame | {"nll_base": base, "nll_tuned": tuned}), comparison)


def verdict(accuracy_block: Any, nll_block: Any, primary: str = "accuracy", **gates: bool | None) -> Verdict:
    comparison = Comparison(primary=primary, resamples=400)  # type: ignore[arg-type]
    return decide(comparison, accuracy_block, nll_block, [HARD, SOFT], {"smoke": True, "full": True} | gates)


def few_shot(won: int, lost: int, shots: int = 2) -> dict[str, Any]:
    return {"shots": shots, "accuracy": changed(won, lost)}


@pytest.mark.parametrize(
    ("plain", "worked", "name"),
    [
        ((60, 10), (50, 10), "improved"),
        ((60, 10), (20, 20), "improved over the zero-shot base only"),
        ((60, 10), (10, 60), "improved over the zero-shot base only"),
        ((20, 20), (60, 10), "no evidence of change"),
        ((10, 60), (60, 10), "worse"),
    ],
)
def test_improved_needs_both_bases_beaten(plain: tuple[int, int], worked: tuple[int, int], name: str) -> None:
    gates = {"smoke": True, "full": True}
    said = decide(FAST, changed(*plain), nothing("rows"), [HARD], gates, few_shot=few_shot(*worked))
    assert said.name == name
    (w, lost), total = worked, 300
    with_examples = lost + (total - w - lost) // 2
    before = plain[1] + (total - sum(plain)) // 2
    after = plain[0] + (total - sum(plain)) // 2
    fact = f"{before} → {after} of 300 held-out questions correct"
    assert said.headline.endswith(f": {fact}, few-shot base {with_examples}")
    assert said.detail.count("95 % interval") == 2 and said.detail.endswith("against the base with 2 worked examples")
    [reason] = [reason for reason in said.reasons if reason.startswith("accuracy against")]
    assert reason.startswith("accuracy against the base with 2 worked examples (decides): ")


def test_numbers_that_are_the_same_against_both_bases_stand_once() -> None:
    gates = {"smoke": True, "full": True}
    said = decide(FAST, changed(60, 10), nothing("rows"), [HARD], gates, few_shot=few_shot(60, 10, shots=1))
    assert said.headline == "Improved: 125 → 175 of 300 held-out questions correct, few-shot base 125"
    assert said.detail.count("95 % interval") == 1
    assert said.detail.endswith("; the same against the base with 1 worked example")


def test_without_worked_examples_format_and_skill_are_not_told_apart() -> None:
    said = verdict(changed(60, 10), nothing("rows"))
    expected = "format and skill are not told apart: the base answered without worked examples (evaluate.few_shot is 0)"
    assert expected in said.reasons and said.detail.endswith(f"; {expected}")
    assert "not told apart" not in verdict(changed(20, 20), nothing("rows")).sentence


def test_examples_that_did_not_show_the_format_are_said() -> None:
    """A few-shot base that writes no answer at all is beaten as easily as one that never saw the format."""
    gates = {"smoke": True, "full": True}
    for unread, told in ((0.9, False), (0.2, True)):
        few = few_shot(60, 0) | {"unread": unread}
        said = decide(FAST, changed(60, 10), nothing("rows"), [HARD], gates, few_shot=few)
        why = "not told apart: no answer was found in 90\u00a0% of the answers of the base with 2 worked examples"
        assert (why in said.detail) != told and any(why in reason for reason in said.reasons) != told


def test_a_verdict_on_the_likelihood_does_not_use_worked_examples() -> None:
    """Nothing stands before the question when the likelihood is measured."""
    comparison, gates = Comparison(primary="nll", resamples=400), {"smoke": True, "full": True}
    said = decide(comparison, changed(60, 10), nll(-0.5), [HARD], gates, few_shot=few_shot(10, 60, shots=1))
    assert said.name == "improved" and "worked" not in said.sentence
    assert any(r.startswith("accuracy against the base with 1 worked example (does not decide)") for r in said.reasons)


def test_the_five_verdicts() -> None:
    assert verdict(changed(60, 10), nll(0.0)).name == "improved"
    assert verdict(changed(10, 60), nll(-0.5)).name == "worse"
    assert verdict(changed(20, 20), nll(0.0)).name == "no evidence of change"
    assert verdict(changed(20, 20), nll(-0.5)).name == "likelihood improved but accuracy unproven"
    assert verdict(changed(60, 10), nll(-0.5), smoke=False).name == "invalid"


def test_the_primary_measure_alone_decides() -> None:
    assert verdict(changed(10, 60), nll(-0.5), primary="nll").name == "improved"
    assert verdict(changed(60, 10), nll(0.5), primary="nll").name == "worse"
    assert verdict(changed(60, 10), nll(0.0), primary="nll").name == "no evidence of change"


def test_the_headline_carries_the_numbers() -> None:
    said = verdict(changed(60, 10), nll(-0.5))
    assert said.headline == "Improved: 125 → 175 of 300 held-out questions correct"
    assert said.detail.startswith("+16.7 points, 95 % interval +11.")
    assert "p < 0.001; format and skill are not told apart" in said.detail
    assert said.detectable is not None and 0.05 < said.detectable < 0.1
    assert "exact McNemar" in said.reasons[0] and "does not decide" in said.reasons[1]


def test_a_failed_hard_canary_makes_it_invalid_with_its_reason() -> None:
    fired = HARD | {"passed": False, "value": 812, "source": "smoke"}
    said = decide(FAST, changed(60, 10), nll(-0.5), [HARD, fired], {"smoke": False, "full": True})
    assert said.name == "invalid"
    assert said.headline == "Invalid: a hard canary failed (targets hidden)"
    explained = [HARD | {"fault": "no"}, fired | {"fault": "the model was shown the tokens it had to predict"}]
    said = decide(FAST, changed(60, 10), nll(-0.5), explained, {"smoke": False, "full": True})
    assert said.headline == "Invalid: the model was shown the tokens it had to predict"
    assert said.detail.startswith("1 of 2 hard canaries failed; no number below says what was learned")
    assert said.reasons[0].startswith("the model was shown the tokens it had to predict, in the smoke run. What to ch")
    assert said.remedy and said.remedy in said.reasons[0] and verdict(changed(60, 10), nll(-0.5)).remedy is None


def test_canaries_that_never_ran_make_it_invalid() -> None:
    assert verdict(changed(60, 10), nll(-0.5), full=None).name == "invalid"
    assert decide(FAST, changed(60, 10), nll(-0.5), [SOFT], {}).name == "invalid"
    assert "no hard canary was run" in decide(FAST, changed(60, 10), nll(-0.5), [], {}).headline
    sampler = HARD | {"name": "no_mask_left", "source": "answers/test/greedy/base"}  # says nothing of training
    assert "no hard canary was run" in decide(FAST, changed(60, 10), nll(-0.5), [sampler], {}).headline


def test_a_soft_canary_warns_only() -> None:
    fired = SOFT | {"passed": False, "value": -0.01}
    said = decide(FAST, changed(60, 10), nll(-0.5), [HARD, fired], {"smoke": True, "full": True})
    assert said.name == "improved"
    assert any(reason.startswith("warning from likelihood: shuffled prompts hurt") for reason in said.reasons)


def test_a_change_counts_only_where_test_and_interval_agree() -> None:
    """Skewed differences: many small gains and one great loss, which sign flips take for a gain."""
    clear, doubtful = nll(-0.5), nll(-0.5)
    doubtful["delta"] |= {"p": 0.01, "low": -0.9, "high": 0.02}
    assert verdict(changed(20, 20), clear, primary="nll").name == "improved"
    assert verdict(changed(20, 20), {**clear, "delta": clear["delta"] | {"p": 0.2}}, primary="nll").name != "improved"
    said = verdict(changed(20, 20), doubtful, primary="nll")
    assert said.name == "no evidence of change" and "no evidence of change" in said.reasons[1]


def test_a_collapse_is_said_and_changes_no_verdict() -> None:
    gates = {"smoke": True, "full": True}
    for canaries, name in (([HARD], "improved"), ([HARD | {"passed": False}], "invalid")):
        said = decide(FAST, changed(60, 10), nll(-0.5), canaries, gates, ["63 % loop", "55 % are empty"])
        assert said.name == name
        assert "the tuned model's answers collapsed: 63 % loop, 55 % are empty" in said.reasons
    assert not any("collapsed" in reason for reason in verdict(changed(60, 10), nll(-0.5)).reasons)


def test_the_likelihoods_reason_says_what_it_is_and_how_sure() -> None:
    def reasons(rows: int) -> tuple[str, ...]:
        return verdict(changed(20, 20), nll(-0.5, rows)).reasons

    assert (
        "skewness-corrected t test over rows, level 0.05; a bound, given the length of each response" in reasons(60)[1]
    )
    assert any(reason.startswith("the likelihood rests on 60 rows, fewer than 100") for reason in reasons(60))
    assert any("better by chance more often than the level says, and worse more seldom" in r for r in reasons(60))
    assert not any("fewer than 100" in reason for reason in reasons(100))
    assert nll(-0.5, rows=5)["delta"]["p"] is None and nll(-0.5, rows=6)["delta"]["p"] is not None
    assert reasons(5)[1].endswith("; no test: fewer than 6 rows")


def test_no_data_is_said_and_never_called_a_change() -> None:
    said = verdict(nothing("questions"), nothing("rows"))
    assert said.name == "no evidence of change" and "not enough data" in said.headline
    one = accuracy(np.array([0]), np.array([1]))
    said = verdict(one, nll(0.0, rows=1))
    assert said.name == "no evidence of change" and "0 → 1 of 1 held-out question" in said.headline
    assert one["gain"]["p"] == 1.0 and one["detectable"] is None


def test_ungradable_questions_are_set_apart() -> None:
    some = pl.concat(
        [
            scores(np.array([0, 1, 1, 0])),
            scores(np.zeros(2), gradable=False).with_columns(pl.col("example_id", "cluster") + 9),
        ]
    )
    block = compare_scores(some, some, "correct", FAST)
    assert (block["questions"], block["ungradable"], block["base"]["value"]) == (4, 2, 0.5)


def test_undecided_questions_are_said_in_the_sentence() -> None:
    block = changed(60, 10)
    assert "undecided" not in verdict(block, nll(-0.5)).sentence
    doubtful = block | {"undecided": 2}
    said = verdict(doubtful, nll(-0.5))
    assert said.headline == "Improved: 125 → 175 of 300 held-out questions correct, 2 left out as undecided"
    assert "2 left out as undecided" in said.reasons[0]
    for other in (
        verdict(block | {"undecided": 2}, nll(-0.5), full=False),
        verdict(block | {"undecided": 2}, nll(0.0)),
    ):
        assert "2 left out as undecided" in other.sentence
    alone = verdict(nothing("questions") | {"undecided": 7}, nll(0.0))
    assert "the grader left all 7 held-out questions undecided" in alone.sentence


def test_answers_to_other_questions_are_refused() -> None:
    with pytest.raises(UserError, match="not the same ones"):
        compare_scores(scores(np.ones(4)), scores(np.ones(5)), "correct", FAST)


def test_several_samples_count_by_question() -> None:
    rng = np.random.default_rng(0)
    skill = rng.random(80)
    base = (rng.random((80, 4)) < 0.5 * skill[:, None]).ravel()
    tuned = (rng.random((80, 4)) < skill[:, None]).ravel()
    block = accuracy(base, tuned, samples=4)
    assert (block["questions"], block["samples"], block["base"]["n"]) == (80, 4, 80)
    assert block["gain"]["test"] == "paired permutation over questions"
    assert block["gain"]["value"] == pytest.approx(tuned.mean() - base.mean())
    assert verdict(block, nll(0.0)).name == "improved"
    same = accuracy(base, base, samples=4)
    assert same["gain"]["value"] == 0 and verdict(same, nll(0.0)).name == "no evidence of change"


def test_chance_is_rarely_called_an_improvement_in_accuracy() -> None:
    """The demo's own pairs of base and tuned, each exchanged by the toss of a coin: exactly, over how many are won."""
    reading = pl.read_csv(PAIRS).head(40).select("lenient_base", "lenient_tuned").to_numpy()
    alike = reading[reading[:, 0] == reading[:, 1], 0]
    differ = 40 - len(alike)
    assert differ >= 10
    improved = 0.0
    for won in range(differ + 1):
        tuned = np.concatenate([alike, np.ones(won), np.zeros(differ - won)])
        base = np.concatenate([alike, np.zeros(won), np.ones(differ - won)])
        said = decide(FAST, accuracy(base, tuned), nothing("rows"), [HARD], {"full": True})
        improved += binom.pmf(won, differ, 0.5) * (said.name == "improved")
    assert 0.005 < improved <= 0.025


def test_chance_is_rarely_called_an_improvement_in_likelihood() -> None:
    """1,000 nulls: the same."""
    rng, improved = np.random.default_rng(0), 0
    pairs = pl.read_csv(PAIRS).head(40)
    nats = pairs.select("nll_base", "nll_tuned").to_numpy()
    comparison = Comparison(primary="nll", resamples=200)
    for _ in range(1000):
        order = np.argsort(rng.random((40, 2)), axis=1)
        base, tuned = np.take_along_axis(nats, order, axis=1).T
        frame = {"example_id": np.arange(40), "cluster": np.arange(40), "draw": np.zeros(40, int)}
        frame |= {"response_tokens": pairs["response_tokens"], "nll_base": base, "nll_tuned": tuned}
        rows = pl.DataFrame(frame)
        blocks = nothing("questions"), compare_nll(rows, comparison)
        improved += decide(comparison, *blocks, [HARD], {"full": True}).name == "improved"
    assert 0 < improved <= 35


def test_a_true_gain_of_ten_points_is_mostly_found() -> None:
    rng, found = np.random.default_rng(0), 0
    for won, lost, _ in rng.multinomial(300, (0.2, 0.1, 0.7), 300):
        found += decide(FAST, _counts(won, lost), nothing("rows"), [HARD], {"full": True}).name == "improved"
    assert found / 300 >= 0.8


def _counts(won: int, lost: int) -> dict[str, Any]:
    return changed(int(won), int(lost))
