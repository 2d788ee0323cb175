"""Experiments that are no runs of the study, as the page lists them: each with its verdict and a link to its report."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreamtune.readable import DASH, nats, percent, points
from dreamtune.report.front import MOODS, passed_words
from dreamtune.report.text import arrow, reveal

FORMAT = 1  # the format of summary.json that is understood


def experiments_of(latest: Path, refused: Mapping[str, str], without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return a line for each `latest`/EXPERIMENT/summary.json, sorted by name.

    Args:
        latest: folder of the published experiments.
        refused: why an experiment's summary must not be read, by the experiment's name; its line says so.
        without: experiments that are left out: the runs of the study.
    """
    found = [path for path in sorted(latest.glob("*/summary.json")) if path.parent.name not in without]
    return [_experiment(path, refused) for path in found]


def _experiment(path: Path, refused: Mapping[str, str]) -> dict[str, Any]:
    """Return one line of the page; for a summary that is refused, unreadable or in another format, it says so."""
    name = path.parent.name
    line = {"name": reveal(name, 200), "link": f"{quote(name)}/report.html", "mood": ""}
    if name in refused:
        return line | {"verdict": reveal(refused[name], 500), "cells": []}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["format"] != FORMAT:
            return line | {"verdict": f"summary.json has format {summary['format']}, not {FORMAT}", "cells": []}
        return line | {
            "verdict": reveal(summary["verdict"], 200),
            "mood": MOODS.get(summary["verdict"], ""),
            "cells": [*_measures(summary), _canaries(summary["canaries"]), (_day(path), "")],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        return line | {"verdict": f"summary.json cannot be read ({type(error).__name__})", "cells": []}


def _measures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return accuracy, gain and NLL, each as a number and its interval or n."""
    accuracy, nll = summary["accuracy"], summary["nll"]
    gain = accuracy["gain"]
    limits = f"{points(gain['low'])} to {points(gain['high'])}" if gain["low"] is not None else ""
    delta = nll["delta"]
    nll_limits = f"{nats(delta['low'], True)} to {nats(delta['high'], True)}" if delta["low"] is not None else ""
    kind = (
        nll.get("kind") if nll["base"]["n"] else ""
    )  # bounds and exact numbers stand in one column, and are not compared
    return [
        (
            arrow(percent(accuracy["base"]["value"]), percent(accuracy["tuned"]["value"])),
            f"n = {accuracy['base']['n']}",
        ),
        (points(gain["value"]), limits),
        (arrow(nats(nll["base"]["value"]), nats(nll["tuned"]["value"])), ", ".join(filter(None, (kind, nll_limits)))),
    ]


def _canaries(checks: list[dict[str, Any]]) -> tuple[str, str]:
    return passed_words(checks, hard=True), f"soft: {passed_words(checks, hard=False)}"


def _day(path: Path) -> str:
    manifest = path.parent / "report/manifest.json"
    started = json.loads(manifest.read_text(encoding="utf-8")).get("started") if manifest.exists() else None
    return str(started)[:16].replace("T", " ") if started else DASH
