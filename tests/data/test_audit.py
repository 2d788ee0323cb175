"""The audit's figures on lengths that can be counted by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamtune.data.truncation import POLICIES, fit
from rows import prepare

# Tokens of prompt (beginning, Q, question, R), reasoning, answer (A, words), end: 8, 12 and 16 in all.
ROWS = {
    "question": ["w4", "w5", "w6"],
    "reasoning": ["w7", "w7 w7 w7 w7 w7", "w7"],
    "answer": ["w8", "w8", "w8 w8 w8 w8 w8 w8 w8 w8 w8"],
}


def audit(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    out, counts = prepare(tmp_path, ROWS, **settings)
    content: dict[str, Any] = json.loads((out / "audit.json").read_text())
    assert content["warnings"] == counts["warnings"] and content["dropped"] == counts["dropped"]
    return content


@pytest.mark.parametrize("chosen", POLICIES)
def test_every_policys_losses_are_stated_whichever_is_chosen(tmp_path: Path, chosen: str) -> None:
    found = audit(tmp_path, max_tokens=10, too_long=chosen)
    keys = ("rows_lost", "answers_lost", "rows_shortened", "reasoning_tokens_lost")
    assert {name: tuple(losses[key] for key in keys) for name, losses in found["policies"].items()} == {
        "shorten_reasoning": (1, 1, 1, 2),
        "drop": (2, 2, 0, 0),
        "truncate": (0, 2, 0, 0),
    }
    kept = {"shorten_reasoning": 2, "drop": 1, "truncate": 3}[chosen]
    assert found["rows"] == {"train": kept, "validation": 0, "test": 0}
    lost = found["policies"][chosen]["answers_lost"]
    assert any(f"{lost} of 3 rows lose their answer at max_tokens 10" in warning for warning in found["warnings"])


def test_lengths_are_those_before_truncation_and_kept_lengths_those_after(tmp_path: Path) -> None:
    found = audit(tmp_path, max_tokens=10)
    assert (found["tokens"]["tokens"]["min"], found["tokens"]["tokens"]["max"]) == (8, 16)
    assert found["tokens"]["tokens"]["median"] == 12 and found["tokens"]["prompt_tokens"]["max"] == 4
    assert found["kept_tokens"]["train"]["max"] == 10 and found["response_tokens"]["train"]["max"] == 6
    assert found["characters"]["answer_characters"]["max"] == 26 and found["kept_tokens"]["test"] == {}
    assert found["kept_characters"]["train"]["answer_characters"]["max"] == 2  # the row of 26 does not fit
    expected = {"min": 2, "p05": 2.6, "p25": 5, "median": 8, "p75": 11, "p95": 13.4, "p99": 13.88, "max": 14, "mean": 8}
    assert found["kept_characters"]["train"]["reasoning_characters"] == pytest.approx(expected)
    assert found["kept_characters"]["test"]["question_characters"] == {}


def test_warnings_say_what_is_odd_and_nothing_else(tmp_path: Path) -> None:
    expected = [
        "the validation split is empty",
        "the test split is empty",
        "the template's prompt ends in a space; most tokenizers expect it at the start of the response",
    ]
    assert audit(tmp_path, max_tokens=20)["warnings"] == expected
    without_space = audit(tmp_path, max_tokens=20, template="Q {question} R\n{reasoning} A {answer}")
    assert without_space["warnings"] == expected[:2]


def test_policies_agree_with_a_row_by_row_reading() -> None:
    random = np.random.default_rng(0)
    prompt, reasoning, answer = random.integers(1, 12, (3, 400))
    for policy in POLICIES:
        got = fit(policy, prompt, reasoning, answer, 16)
        for i, (p, r, a) in enumerate(zip(prompt, reasoning, answer, strict=True)):
            whole = p + r + a + 1
            if policy == "shorten_reasoning":
                kept = p + a + 1 <= 16
                length, complete = min(whole, 16), kept
            elif policy == "drop":
                kept, length, complete = whole <= 16, whole, whole <= 16
            else:
                kept, length, complete = p < 16, min(whole, 16), whole <= 16
            assert (got.dropped[i] == "") == kept
            if kept:
                assert (got.tokens[i], got.complete[i]) == (length, complete)
                assert 0 <= got.reasoning[i] <= r


def test_quantiles_are_numpys(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    words = random.geometric(0.2, 137)
    rows = {"question": [f"w{4 + i % 90} w{4 + i // 90}" for i in range(137)], "reasoning": ["w5"] * 137}
    out, _ = prepare(tmp_path, rows | {"answer": [" ".join(["w7"] * n) for n in words]})
    found = json.loads((out / "audit.json").read_text())["tokens"]["answer_tokens"]
    shares = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
    expected = {name: np.quantile(words + 1, share) for name, share in shares.items()}
    assert found == pytest.approx(expected | {"min": 2, "max": words.max() + 1, "mean": words.mean() + 1})
