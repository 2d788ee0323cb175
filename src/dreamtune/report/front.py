"""The report's first screen, beside the verdict and the recipe: tiles, and counts of canaries."""

from typing import Any

from dreamtune.evaluate.faults import count_passed
from dreamtune.readable import DASH, nats, number, percent, points
from dreamtune.report.text import arrow, with_limits

MOODS = {"improved": "good", "worse": "bad", "invalid": "bad"}
Table = list[dict[str, Any]]


def tiles(summary: dict[str, Any]) -> Table:
    """Return the tiles under the headline: accuracy, few-shot base, held-out NLL, hard canaries, detectable change."""
    accuracy, nll, checks = summary["accuracy"], summary["nll"], summary["canaries"]
    passed, judged = count_passed(checks, hard=True)
    smallest = summary["minimum_detectable_effect"]
    small = smallest["primary"]
    size = f"{points(small)} points".lstrip("+") if summary["primary"] == "accuracy" else f"{nats(small)} nats"
    return [
        {
            "label": "Accuracy",
            "value": arrow(percent(accuracy["base"]["value"], 0), percent(accuracy["tuned"]["value"], 0)),
            "mood": "",
            "note": with_limits(points, accuracy["gain"], "points") if accuracy["base"]["n"] else "not enough data",
        },
        *_few_shot_tile(summary["few_shot"]),
        {
            "label": f"Held-out NLL, {nll['kind']}",
            "value": arrow(nats(nll["base"]["value"]), nats(nll["tuned"]["value"])),
            "mood": "",
            "note": with_limits(lambda v: nats(v, True), nll["delta"], "nats")
            if nll["base"]["n"]
            else "not enough data",
        },
        {
            "label": "Hard canaries",
            "value": passed_words(checks, hard=True),
            "note": f"soft canaries: {passed_words(checks, hard=False)}",
            "mood": "bad" if passed < judged or not judged else "",
        },
        {
            "label": "Detectable change",
            "value": DASH if small is None else size,
            "mood": "",
            "note": _detectable_note(summary),
        },
    ]


def _few_shot_tile(few_shot: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the tile of the few-shot base under the headline, as a list of 0 or 1.

    Args:
        few_shot: summary.json's entry of that name.
    """
    if not few_shot:
        return []
    block, shots = few_shot["accuracy"], few_shot["shots"]
    note = f"tuned {with_limits(points, block['gain'], 'points')}" if block["base"]["n"] else "not enough data"
    value = percent(block["base"]["value"], 0)
    return [{"label": f"Few-shot base, k = {shots}", "value": value, "mood": "", "note": note}]


def _detectable_note(summary: dict[str, Any]) -> str:
    """Return what the detectable change is, and how many unrelated questions or rows it rests on."""
    things, block = ("questions", summary["accuracy"])
    if summary["primary"] == "nll":
        things, block = "rows", summary["nll"]
    n, effective = block["base"]["n"], (block.get("gain") or block["delta"])["effective_n"]
    if summary["minimum_detectable_effect"]["primary"] is None:
        return f"not enough data: with {number(n)} {things} no change would surely be found"
    alike = f", which count as {effective:.0f} unrelated ones" if block["clusters"] < n else ""
    return (
        f"with these {number(n)} {things}{alike}, a true change of this size would be found 4 times in 5, a smaller "
        "one less often"
    )


def passed_words(checks: Table, hard: bool) -> str:
    """Return how many of the hard, or of the soft, canaries passed: the same words everywhere on the page.

    >>> passed_words([{"hard": True, "passed": True}, {"hard": True, "passed": False}], hard=True)
    '1 of 2 passed'
    """
    passed, judged = count_passed(checks, hard)
    unknown = sum(c["hard"] is hard and c["passed"] is None for c in checks)
    said = f"{passed} of {judged} passed" if judged or unknown else "not run"
    return said + (f", {unknown} not judged" if unknown else "")
