"""What becomes of an example that is longer than `max_tokens`, decided for a whole batch of lengths at once."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Policy = Literal["shorten_reasoning", "drop", "truncate"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class Fit:
    """The outcome per row.

    Attributes:
        dropped: [rows] object; the reason, empty for a row that is kept.
        reasoning: [rows] int; tokens of the reasoning that are kept.
        tokens: [rows] int; length of the kept example, end token included if complete.
        complete: [rows] bool; the answer stands uncut with its end token.
    """

    dropped: np.ndarray
    reasoning: np.ndarray
    tokens: np.ndarray
    complete: np.ndarray


def fit(policy: Policy, prompt: np.ndarray, reasoning: np.ndarray, answer: np.ndarray, max_tokens: int) -> Fit:
    """Apply `policy` to rows of `prompt` (beginning token included), `reasoning` and `answer` tokens, all [rows].

    The same policy holds for training and held-out rows: their prompts are never cut, so that every kept held-out row
    can be generated from, and a row whose answer cannot be scored beside its question is dropped from both measures
    rather than from one.
    """
    whole = prompt + reasoning + answer + 1  # the end token
    dropped = np.full(len(whole), "", dtype=object)
    if policy == "shorten_reasoning":
        room = max_tokens - prompt - answer - 1
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
