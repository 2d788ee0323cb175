"""The verdict under each decoder: does it rest on fine-tuning, or on the way in which the answers were decoded?

Decoding can move accuracy by more than any fine-tuning does. So the rule of the verdict is applied to the answers of
each of `evaluate.decoders` as well. The headline's verdict stays; whether the others agree is said beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from dreamtune.evaluate.comparison import Block, compare_scores
from dreamtune.formats.names import CANVAS, HEADLINE, SAMPLED
from dreamtune.settings.report import Comparison


def agreement(verdicts: Mapping[str, str]) -> str | None:
    """Return the sentence that says whether the verdict is the same under each decoder; None if there is only one.

    Args:
        verdicts: by decoder, the headline's first.

    >>> agreement({"greedy": "improved", "whole": "improved"})
    'the verdict is the same under each decoder (greedy, whole)'
    >>> agreement({"greedy": "improved", "whole": "worse"})
    'the verdict is not the same under each decoder: improved under greedy, worse under whole'
    """
    if len(verdicts) < 2:
        return None
    if len(set(verdicts.values())) == 1:
        return f"the verdict is the same under each decoder ({', '.join(verdicts)})"
    each = ", ".join(f"{verdict} under {name}" for name, verdict in verdicts.items())
    return f"the verdict is not the same under each decoder: {each}"


def compare_settings(
    blocks: Mapping[str, Mapping[str, Any]],
    tuned: Mapping[str, pl.DataFrame],
    verdict_of: Callable[[Mapping[str, Any]], str],
    comparison: Comparison,
) -> list[Block]:
    """Return a block for the headline, each canvas and each decoder, on the same questions.

    Args:
        blocks: by generation setting, its comparison of base and tuned; the headline's among them.
        tuned: by generation setting, the tuned model's scores.parquet.
        verdict_of: takes one of `blocks` and returns the name of the verdict that it would have.
        comparison: level of test and intervals, resamples and seed.

    Returns:
        for each setting: its name as "setting"; "canvas", its limit if it is one of `evaluate.canvases`; "verdict",
        null for those; "base", "tuned" and "gain" of accuracy; "against_headline", the estimate of the tuned model's
        change against the headline, question by question; "early_ends" of base and tuned, the number of answers that
        ended before any answer was found.
    """
    compared = []
    for name in sorted(blocks.keys() - {SAMPLED}, key=_place):
        canvas = name.startswith(CANVAS)
        accuracy = blocks[name]["accuracy"]
        against = compare_scores(tuned[HEADLINE], tuned[name], "correct", comparison)["gain"]
        compared.append(
            {
                "setting": name,
                "canvas": int(name.removeprefix(CANVAS)) if canvas else None,
                "verdict": None if canvas else verdict_of(blocks[name]),
                **{key: accuracy[key] for key in ("base", "tuned", "gain")},
                "against_headline": against,
                "early_ends": {who: blocks[name][who].get("scores", {}).get("early_ends") for who in ("base", "tuned")},
            }
        )
    return compared


def _place(name: str) -> tuple[bool, bool, int, str]:
    """Return the sort key of a generation setting: the headline, canvases by their size, decoders by name."""
    canvas = name.startswith(CANVAS)
    return name != HEADLINE, not canvas, int(name.removeprefix(CANVAS)) if canvas else 0, name
