"""The summary as the report's template shows it: short texts and tables on results, canaries, settings, provenance."""

from typing import Any

from dreamtune.readable import DASH, duration, nats, number, p_value, percent, points
from dreamtune.report.front import arrow, interval
from dreamtune.report.shapes import cut, shapes
from dreamtune.report.text import READING_NAMES, plain, reveal

SAMPLER = (
    *("max_new_tokens", "steps", "block_length", "lookahead", "refresh", "threshold"),
    *("order", "ranking", "temperature", "top_p", "top_k", "samples", "seed"),
)
Table = list[dict[str, Any]]


def comparison_tables(summary: dict[str, Any]) -> Table:
    """Return, per question set and setting, the three readings, how the answers look, and the sampler's settings."""
    return [
        {
            "title": name.replace("/", " · "),
            "readings": [_reading(label, reading) for label, reading in _readings(block)],
            "shapes": shapes([block[who].get("scores", {}) for who in ("base", "tuned")]),
            "ungradable": block["accuracy"].get("ungradable"),
            "undecided": block["accuracy"].get("undecided"),
            "alike": block["accuracy"]["clusters"] < block["accuracy"]["base"]["n"],
            "cut": cut([(who, block[who].get("scores", {})) for who in ("base", "tuned")]),
            "sampler": _pairs(summary["settings"].get(f"answers/{name}/tuned", {}).get("generate", {}), SAMPLER),
        }
        for name, block in summary["comparisons"].items()
    ]


def decoding_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row per canvas and decoder: accuracy, gain, change against the headline, early ends, and the verdict."""
    rows: list[tuple[str, ...]] = []
    for block in summary["decoding"]:
        first = not rows
        change = "the headline" if first else interval(points, block["against_headline"], "points")
        early = arrow(*(number(block["early_ends"][who]) for who in ("base", "tuned")))
        shares = (percent(block["base"]["value"]), percent(block["tuned"]["value"]))
        gain = interval(points, block["gain"], "points")
        rows.append((block["setting"], *shares, gain, change, early, block["verdict"] or DASH))
    return rows


def full_likelihood(summary: dict[str, Any]) -> str | None:
    """Return the likelihood of the responses with their tails as a sentence, None where training appends no tails."""
    full = summary["nll"].get("full")
    if not full:
        return None
    values = arrow(nats(full["base"]["value"]), nats(full["tuned"]["value"]))
    change = interval(lambda value: nats(value, True), full["delta"], "nats")
    return f"{values}, {change}, over {number(full['tail_tokens'])} further end tokens"


def canary_rows(summary: dict[str, Any]) -> Table:
    """Return the canaries, failed ones first."""
    order = {False: 0, None: 1, True: 2}
    rows = sorted(summary["canaries"], key=lambda c: (order[c["passed"]], not c["hard"]))
    return [
        {
            "source": c["source"],
            "name": c["name"],
            "kind": "hard" if c["hard"] else "soft",
            "state": {True: "passed", False: "failed" if c["hard"] else "warning", None: "not judged"}[c["passed"]],
            "mood": "bad" if c["passed"] is False and c["hard"] else "warn" if c["passed"] is False else "",
            "value": plain(c["value"])
            + (f" ({number(c['low'])} to {number(c['high'])})" if c.get("low") is not None else ""),
            "expected": c["expected"] + (f"; {c['note']}" if not c["passed"] and c.get("note") else ""),
        }
        for c in rows
    ]


def training_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of the full training run as pairs of name and value, without those that are not known."""
    run = summary["training"]
    share = run["trainable"] / run["parameters"] if run.get("trainable") and run.get("parameters") else None
    facts = [
        ("Loss, first to last", f"{number(run.get('first_loss'))} → {number(run.get('last_loss'))}"),
        ("Optimiser steps", number(run.get("steps"))),
        ("Tokens", number(run.get("tokens"))),
        ("Of these, behind an end token", number(run.get("tail_tokens"))),
        ("Epochs", number(run.get("epochs"))),
        ("Trainable parameters", f"{number(run.get('trainable'))} ({percent(share, 2)})"),
        ("Seconds per step", number(run.get("seconds_per_step"))),
        ("Peak memory", DASH if run.get("peak_memory_gib") is None else f"{number(run['peak_memory_gib'])} GiB"),
        ("Predicted by smoke", _predicted(run)),
        ("Resumed from", plain(run.get("resumed_from") or "nothing: one go")),
    ]
    return [(name, value) for name, value in facts if DASH not in value.split()] if run else []


def _predicted(run: dict[str, Any]) -> str:
    minutes, memory = run.get("predicted_minutes"), run.get("predicted_memory_gib")
    return DASH if minutes is None or memory is None else f"{duration(60 * minutes)}, {number(memory)} GiB"


def generation_facts(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row per question set, setting and model: answers, tokens, time and speed of generation."""
    rows: list[tuple[str, ...]] = []
    for name, block in summary["comparisons"].items():
        for who in ("base", "tuned"):
            run = block[who].get("generation", {})
            counts = (number(run.get("rows")), number(run.get("tokens")))
            speed = (duration(run.get("seconds")), number(run.get("tokens_per_s")), number(run.get("tokens_per_pass")))
            rows.append((f"{name.replace('/', ' · ')} · {who}", *counts, *speed))
    return rows


def settings_tables(summary: dict[str, Any]) -> Table:
    """Return a table of settings for each stage, with rows of dotted key and value."""
    return [
        {"title": stage, "rows": [row for name, section in sections.items() for row in _flat(name, section)]}
        for stage, sections in summary["settings"].items()
    ]


def provenance_rows(manifests: dict[str, dict[str, Any]]) -> Table:
    """Return a row per stage: version, commit, host, GPU and image, start, wall time and packages."""
    rows = []
    for name, m in manifests.items():
        git = m.get("git") or {}
        commit = (git.get("commit") or DASH)[:10] + (" + uncommitted edits" if git.get("dirty") else "")
        packages = ", ".join(f"{package} {version}" for package, version in (m.get("packages") or {}).items())
        where = ", ".join(str(part) for part in (m.get("host"), m.get("gpu"), m.get("image")) if part) or DASH
        rows.append(
            {"name": name, "version": m.get("version") or DASH, "commit": commit, "where": where}
            | {"started": m.get("started") or DASH, "wall": duration(m.get("wall_s"))}
            | {"packages": f"Python {m.get('python') or DASH}; {packages}"}
        )
    return rows


def warnings(
    summary: dict[str, Any], manifests: dict[str, Any], audit: dict[str, Any], references: dict[str, Any]
) -> list[str]:
    """Return warnings that a reader should know before believing a number, one sentence each.

    Args:
        summary: content of summary.json.
        manifests: the manifest of each stage.
        audit: content of audit.json.
        references: content of references.json.
    """
    found = [warning] if (warning := references.get("warning")) else []
    found += _together(summary["canvas_warnings"])
    for package, versions in summary["package_differences"].items():
        which = "; ".join(f"{version} in {', '.join(stages)}" for version, stages in versions.items())
        found.append(f"stages ran with different versions of {package}: {which}")
    dirty = [name for name, m in manifests.items() if (m.get("git") or {}).get("dirty")]
    found += [f"uncommitted edits while these stages ran: {', '.join(dirty)}"] if dirty else []
    for name, block in summary["comparisons"].items():
        for who in ("base", "tuned"):
            lost = (block[who].get("generation") or {}).get("dropped") or {}
            found += [f"{name}, {who}: {n} questions not asked: {reveal(str(why))}" for why, n in lost.items()]
    found += [reveal(text) for text in summary["warnings"]]
    return found + [reveal(text) for text in audit.get("warnings") or []]


def _together(texts: list[str]) -> list[str]:
    """Return texts of the form "SET/SETTING, what", those that say the same of several settings as one.

    >>> _together(["test/greedy, too long", "test/sampled, too long", "test/greedy, cut"])
    ['test/greedy and test/sampled, too long', 'test/greedy, cut']
    """
    places: dict[str, list[str]] = {}
    for text in texts:
        place, _, what = text.partition(", ")
        places.setdefault(what, []).append(place)
    return [f"{' and '.join(where)}, {what}" for what, where in places.items()]


def _readings(block: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, block) for the three readings, for several samples, and without contaminated questions."""
    found = [(label, block[reading]) for reading, label in READING_NAMES.items()]
    at_k = block.get("pass_at_k") or {}
    if len(at_k) > 1:  # pass@1 of one sample is the first reading
        found += [(f"pass@{k}", comparison) for k, comparison in at_k.items()]
    found += [("majority vote", block["majority"])] if block.get("majority") else []
    second = block.get("uncontaminated")
    return found + ([(f"correct, without {second['left_out']} contaminated", second)] if second else [])


def _reading(label: str, block: dict[str, Any]) -> dict[str, Any]:
    gain = block["gain"]
    changes = f"{gain['won']} won, {gain['lost']} lost" if gain.get("won") is not None else DASH
    return {
        "label": label,
        "base": _share(block["base"]),
        "tuned": _share(block["tuned"]),
        "gain": points(gain["value"]),
        "limits": f"{points(gain['low'])} to {points(gain['high'])}" if gain["low"] is not None else DASH,
        "p": p_value(gain["p"]),
        "changes": changes,
        "n": number(block["base"]["n"]) + _alike(block),
    }


def _alike(block: dict[str, Any]) -> str:
    """Return the number of unrelated questions that say as much, in brackets; "" where all are unrelated."""
    return f" ({block['gain']['effective_n']:.0f})" if block["clusters"] < block["base"]["n"] else ""


def _share(side: dict[str, Any]) -> dict[str, str]:
    return {"value": percent(side["value"]), "limits": f"{percent(side['low'])} to {percent(side['high'])}"}


def _pairs(section: dict[str, Any], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {plain(section[name])}" for name in names if section.get(name) is not None)


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Return nested settings as rows of dotted key and value.

    >>> _flat("train", {"lora": {"r": 16}, "seed": 0})
    [('train.lora.r', '16'), ('train.seed', '0')]
    """
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(f"{name}.{key}", item)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [row for i, item in enumerate(value) for row in _flat(f"{name}.{i}", item)]
    return [(name, plain(value))]
