"""The summary as the report's template shows it: short texts and tables on results, canaries, settings, provenance."""

from typing import Any

from dreamtune.readable import DASH, duration, number, percent
from dreamtune.report.few_shot import sides
from dreamtune.report.text import plain, reveal

Table = list[dict[str, Any]]


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
        for who, side in sides(block).items():
            run = side.get("generation", {})
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


def usage_rows(manifests: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row per stage whose manifest tells its usage: name, memory, CPUs, time and GPU memory, used and asked.

    Memory and CPUs are those of all processes on a node, if each used as much as the first.
    """
    rows: list[tuple[str, ...]] = []
    for name, manifest in manifests.items():
        if used := manifest.get("usage"):
            asked, processes = used["asked"], used["processes"]
            cpus = used["cpu_s"] * processes / max(used["wall_s"], 1e-3)
            rows.append(
                (
                    name,
                    f"{number(used['memory_gib'] * processes)} of {number(asked['memory_gib'])}",
                    f"{number(cpus, 2)} of {number(asked['cpus'])}",
                    f"{duration(used['wall_s'])} of {duration(asked['minutes'] and asked['minutes'] * 60)}",
                    number(used["gpu_memory_gib"]),
                    asked["by"],
                )
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
        for who, side in sides(block).items():
            lost = (side.get("generation") or {}).get("dropped") or {}
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
