"""How the answers look, as the report shows it: shares of scores.json side by side, and what was cut off."""

from typing import Any

from dreamtune.readable import DASH, number, percent

SHAPES = {
    "no answer found": "parse_failed",
    "cut off before the end token": "truncated",
    "loop": "looping",
    "empty": "empty",
    "the most frequent text": "commonest",
    "steps that went left to right": "left_to_right",
    "distinct tokens": "distinct_1",
    "distinct pairs of tokens": "distinct_2",
}  # how the answers look: label and key of scores.json


def shapes(sides: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row per statistic of form (label, base, tuned, …), see `SHAPES`; [] where nothing was scored."""
    if not any(sides):
        return []
    shares = [(label, *(percent(scores.get(key)) for scores in sides)) for label, key in SHAPES.items()]
    early = [_of(s.get("early_ends"), s.get("rows")) for s in sides]
    lengths = [f"{number(s.get('tokens_median'))}, {number(s.get('tokens_p95'))}" for s in sides]
    return [
        *shares,
        ("ended before any answer was found", *early),
        ("tokens: median, 95th percentile", *lengths),
    ]


def _of(count: int | None, total: int | None) -> str:
    return DASH if count is None else f"{number(count)} of {number(total)}"


def cut(sides: list[tuple[str, dict[str, Any]]]) -> str:
    """Return how many answers were cut where another question begins, and what they count uncut; "" if none was.

    >>> cut([("base", {"cut": 5, "uncut_otherwise": 3, "correct": 40, "uncut_correct": 37}), ("tuned", {"cut": 0})])
    'base 5, of which 3 would be graded otherwise without the cut (37 right instead of 40); tuned 0'
    """
    said = []
    for who, scores in sides:
        otherwise = scores.get("uncut_otherwise") or 0
        right = f"({number(scores.get('uncut_correct'))} right instead of {number(scores.get('correct'))})"
        changed = (
            f", of which {number(otherwise)} would be graded otherwise without the cut {right}" if otherwise else ""
        )
        said.append(f"{who} {number(scores.get('cut'))}{changed}")
    return "; ".join(said) if any(scores.get("cut") for _, scores in sides) else ""
