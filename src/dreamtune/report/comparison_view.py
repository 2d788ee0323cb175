"""Base and tuned side by side, as the report's tables: readings, how answers look, canvases and decoders."""

from typing import Any

from dreamtune.readable import DASH, nats, number, p_value, percent, points
from dreamtune.report.few_shot import by_column, prompt_note, sides
from dreamtune.report.shapes import cut, shapes
from dreamtune.report.text import READING_NAMES, arrow, plain, with_limits

# Ways to decode that are off by default, with that value: shown where they are on.
FASTER = {
    "refresh_steps": None,
    "refresh_unsure": False,
    "cache": "dual",
    "neighbours": 0,
    "threshold_fall": 0.0,
    "factor": None,
    "products": "bf16",
}
SAMPLER = (
    *("max_new_tokens", "steps", "block_length", "lookahead", "refresh", "threshold", *FASTER),
    *("order", "ranking", "temperature", "top_p", "top_k", "samples", "seed"),
)
Table = list[dict[str, Any]]


def comparison_tables(summary: dict[str, Any]) -> Table:
    """Return, per question set and setting, the three readings, how the answers look, and the sampler's settings."""
    return [
        {
            "title": name.replace("/", " · "),
            "change": arrow(*(percent(block["accuracy"][who]["value"]) for who in ("base", "tuned"))),
            "who": list(by_column(block, "accuracy")),
            "readings": [_reading(label, reading, *few_shot) for label, reading, *few_shot in _readings(block)],
            "few_shot": prompt_note(block),
            "shapes": shapes([side.get("scores", {}) for side in sides(block).values()]),
            "shaped": list(sides(block)),
            "ungradable": block["accuracy"].get("ungradable"),
            "undecided": block["accuracy"].get("undecided"),
            "alike": block["accuracy"]["clusters"] < block["accuracy"]["base"]["n"],
            "cut": cut([(who, side.get("scores", {})) for who, side in sides(block).items()]),
            "sampler": sampler(block["settings"]),
        }
        for name, block in summary["comparisons"].items()
    ]


def decoding_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row per canvas and decoder: accuracy, gain, change against the headline, early ends, and the verdict."""
    rows: list[tuple[str, ...]] = []
    for block in summary["decoding"]:
        first = not rows
        change = "the headline" if first else with_limits(points, block["against_headline"], "points")
        early = arrow(*(number(block["early_ends"][who]) for who in ("base", "tuned")))
        both = (percent(block["base"]["value"]), percent(block["tuned"]["value"]))
        gain = with_limits(points, block["gain"], "points")
        rows.append((block["setting"], *both, gain, change, early, block["verdict"] or DASH))
    return rows


def full_likelihood(summary: dict[str, Any]) -> str | None:
    """Return the likelihood of the responses with their tails as a sentence, None where training appends no tails."""
    full = summary["nll"].get("full")
    if not full:
        return None
    values = arrow(nats(full["base"]["value"]), nats(full["tuned"]["value"]))
    change = with_limits(lambda value: nats(value, True), full["delta"], "nats")
    return f"{values}, {change}, over {number(full['tail_tokens'])} further end tokens"


def _readings(block: dict[str, Any]) -> list[tuple[str, dict[str, Any], list[dict[str, Any] | None], Any]]:
    """Return the table's rows: the three readings, those of several samples, and without contaminated questions.

    Each is (label, block, the estimate of each column's answers, the gain over the few-shot base); what exists only for
    the three readings is None in the others.
    """
    few_shot, columns = block["few_shot"], list(by_column(block, "accuracy"))
    found: list[tuple[str, dict[str, Any], list[dict[str, Any] | None], Any]] = [
        (label, block[key], list(by_column(block, key).values()), few_shot[key]["gain"] if few_shot else None)
        for key, label in READING_NAMES.items()
    ]
    others = []
    at_k = block.get("pass_at_k") or {}
    if len(at_k) > 1:  # pass@1 of one sample is the first reading
        others += [(f"pass@{k}", comparison) for k, comparison in at_k.items()]
    others += [("majority vote", block["majority"])] if block.get("majority") else []
    second = block.get("uncontaminated")
    others += [(f"correct, without {second['left_out']} contaminated", second)] if second else []
    return found + [(label, other, [other.get(column) for column in columns], None) for label, other in others]


def _reading(
    label: str, block: dict[str, Any], estimates: list[dict[str, Any] | None], over: dict[str, Any] | None
) -> dict[str, Any]:
    """Return a row of the table; `over` is the gain over the few-shot base."""
    gain = block["gain"]
    changes = f"{gain['won']} won, {gain['lost']} lost" if gain.get("won") is not None else DASH
    return {
        "label": label,
        "shares": [_share(estimate) for estimate in estimates],
        "gain": _gain(gain),
        "over": _gain(over) if over else None,
        "changes": changes,
        "n": number(block["base"]["n"]) + _alike(block),
    }


def _alike(block: dict[str, Any]) -> str:
    """Return the number of unrelated questions that say as much, in brackets; "" where all are unrelated."""
    return f" ({block['gain']['effective_n']:.0f})" if block["clusters"] < block["base"]["n"] else ""


def _gain(gain: dict[str, Any]) -> dict[str, str]:
    limits = f"{points(gain['low'])} to {points(gain['high'])}" if gain["low"] is not None else DASH
    return {"value": points(gain["value"]), "limits": limits, "p": p_value(gain["p"])}


def _share(side: dict[str, Any] | None) -> dict[str, str]:
    if side is None:
        return {"value": DASH, "limits": ""}
    return {"value": percent(side["value"]), "limits": f"{percent(side['low'])} to {percent(side['high'])}"}


def sampler(settings: dict[str, Any]) -> str:
    """Return the settings of the sampler that decided what was generated.

    >>> sampler({"steps": 8, "threshold": None, "products": "bf16", "factor": 0.5, "temperature": 0.0})
    'steps 8, factor 0.5, temperature 0'
    """
    shown = [name for name in SAMPLER if settings.get(name) not in (None, FASTER.get(name))]
    return ", ".join(f"{name} {plain(settings[name])}" for name in shown)
