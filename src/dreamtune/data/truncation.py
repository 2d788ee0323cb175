"""Truncation: an example longer than `max_tokens` is shortened or dropped, decided for a batch of lengths at once."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Policy = Literal["shorten_reasoning", "drop", "truncate"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class Fit:
    """The outcome of truncation for each row of a batch.

    Attributes:
        dropped: [rows] object; the reason, empty for a row that is kept.
        reasoning: [rows] int; tokens of the reasoning that are kept.
        tokens: [rows] int; length of the kept example, end token included if complete.
        complete: [rows] bool; the answer is uncut and followed by its end token.
    """

    dropped: np.ndarray
    reasoning: np.ndarray
    tokens: np.ndarray
    complete: np.ndarray


def fit(policy: Policy, prompt: np.ndarray, reasoning: np.ndarray, answer: np.ndarray, max_tokens: int) -> Fit:
    """Apply a truncation policy to a batch of rows.

    Training and held-out rows go by the same policy. Prompts are never cut, so that every kept held-out row can be
    generated from; a row whose answer does not fit beside its question is dropped from likelihood and accuracy alike.

    Args:
        policy: "shorten_reasoning" cuts the reasoning and never the answer, "drop" drops every row that is too long,
            "truncate" cuts the end, whatever it is.
        prompt: [rows] tokens of the prompt, beginning token included.
        reasoning: [rows] tokens.
        answer: [rows] tokens.
        max_tokens: of an example, its end token included.

    Three rows of 5 tokens of reasoning, 4 of the answer and an end token, with prompts of 8, 10 and 15 tokens. Of the
    18 tokens that are allowed the first row has 18, the second 20, and the third 20 without its reasoning:

    >>> lengths = np.array([8, 10, 15]), np.array([5, 5, 5]), np.array([4, 4, 4])
    >>> for policy in POLICIES:
    ...     outcome = fit(policy, *lengths, max_tokens=18)
    ...     print(policy, outcome.dropped.tolist(), outcome.reasoning.tolist(), outcome.complete.tolist())
    shorten_reasoning ['', '', 'answer_does_not_fit'] [5, 3, 0] [True, True, False]
    drop ['', 'too_long', 'too_long'] [5, 5, 5] [True, False, False]
    truncate ['', '', ''] [5, 5, 3] [True, False, False]
    """
    whole = prompt + reasoning + answer + 1  # with the end token
    dropped = np.full(len(whole), "", dtype=object)
    if policy == "shorten_reasoning":
        room = (
            max_tokens - prompt - answer - 1
        )  # [rows], tokens left for the reasoning, below 0 if the answer does not fit
        dropped[room < 0] = "answer_does_not_fit"
        dropped[prompt >= max_tokens] = "prompt_does_not_fit"
        reasoning = np.clip(room, 0, reasoning)
        return Fit(dropped, reasoning, prompt + reasoning + answer + 1, room >= 0)
    if policy == "drop":
        dropped[whole > max_tokens] = "too_long"
        return Fit(dropped, reasoning, whole, whole <= max_tokens)
    dropped[prompt >= max_tokens] = "prompt_does_not_fit"  # at least one response token must be left
    tokens = np.minimum(whole, max_tokens)
    return Fit(dropped, np.clip(tokens - prompt, 0, reasoning), tokens, whole <= max_tokens)
