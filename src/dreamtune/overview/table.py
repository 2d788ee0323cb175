"""The table of a study: one row per run, with only the settings that differ, what it measured, and what it cost.

The same rows are the page's table, and `study.parquet` and `study.csv` beside it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.files import finite
from dreamtune.formats.names import BASE, HEADLINE, TUNED
from dreamtune.overview.members import REPORT, Members
from dreamtune.overview.states import State

# Columns of the table beside those of the settings. Shares are 0 to 1, the NLL is in nats per token; null is unknown.
BEFORE = {
    "run": pl.String,
    "method": pl.String,  # the run without its seed
    "experiment": pl.String,
    "seed": pl.Int64,
    "data_size": pl.Int64,  # training rows by the study's data sizes; null for all
}
AFTER = {
    "stand": pl.String,  # finished, invalid, ended, failed, unfinished, not run
    "reason": pl.String,
    "verdict": pl.String,  # of the run's own report, which knows no other run
    "accuracy": pl.Float64,
    "accuracy_low": pl.Float64,
    "accuracy_high": pl.Float64,
    "accuracy_base": pl.Float64,
    "few_shot_base": pl.Float64,  # the base with worked examples before each question
    "gain": pl.Float64,  # of this run, in accuracy; p is raw
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "p": pl.Float64,
    "questions": pl.Int64,
    "nll": pl.Float64,
    "nll_low": pl.Float64,
    "nll_high": pl.Float64,
    "nll_base": pl.Float64,
    "nll_kind": pl.String,
    "device": pl.String,
    "training_minutes": pl.Float64,  # wall minutes of the full training, times its processes: GPU minutes on a GPU
    "all_minutes": pl.Float64,  # wall minutes of all stages, those shared with other runs included
    "peak_memory_gib": pl.Float64,
    "tokens_per_s": pl.Float64,  # of training
    "report": pl.String,  # path from the page
}
# Of each benchmark, as of the test questions: benchmark_NAME_accuracy and so on.
BENCHMARK = ("accuracy", "accuracy_low", "accuracy_high", "accuracy_base", "few_shot_base")
# Of the method that the run belongs to, from the stage `study`, against the base; against the baseline with _baseline.
JUDGED = ("about", "role", "word", "gain", "low", "high", "p_adjusted", "equivalence")
Row = dict[str, Any]


def rows_of(members: Members, states: Sequence[State], study: Mapping[str, Any], latest: Path) -> list[Row]:
    """Return the rows, the best run first; then invalid ones, failed ones, and those that have not run.

    Args:
        members: the study.
        states: of its runs.
        study: content of study.json; {} if the stage has not run.
        latest: folder of the page, from which the links lead.
    """
    judged = {(row["method"], row["against"]): row for row in study.get("comparisons", [])}
    rows = [_row(members, state, judged, latest) for state in states]
    return sorted(rows, key=lambda row: sort_key(row, members.primary))


def sort_key(row: Mapping[str, Any], primary: str) -> tuple[int, float, str]:
    """Return by what rows are sorted: what may be compared first, the best first.

    >>> rows = [{"run": "a", "stand": "failed"}, {"run": "b", "stand": "finished", "accuracy": 0.2},
    ...         {"run": "c", "stand": "finished", "accuracy": 0.4}, {"run": "d", "stand": "invalid", "accuracy": 0.9}]
    >>> [row["run"] for row in sorted(rows, key=lambda row: sort_key(row, "accuracy"))]
    ['c', 'b', 'd', 'a']
    """
    order = ("finished", "invalid", "ended", "failed", "unfinished", "not run")
    value = row.get(primary)
    best = inf if value is None else -value if primary == "accuracy" else value
    return order.index(row["stand"]), best, row["run"]


def frame_of(members: Members, rows: Sequence[Row]) -> pl.DataFrame:
    """Return the rows as a table; settings are numbers where all their values are, else text."""
    schema: dict[str, Any] = dict(BEFORE)
    for name in members.settings:
        values = [row[name] for row in rows if row[name] is not None]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        schema[name] = pl.Float64 if numbers else pl.String
    schema |= AFTER
    schema |= {f"benchmark_{name}_{column}": pl.Float64 for name in benchmarks_of(rows) for column in BENCHMARK}
    schema |= {name: pl.String if _is_text(name) else pl.Float64 for name in _judged_names(members)}
    plain = [{name: _cell(value, schema[name]) for name, value in _flat(row).items() if name in schema} for row in rows]
    return pl.DataFrame(finite(plain), schema=schema)


def benchmarks_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the benchmarks that any run answered, in alphabetical order."""
    return sorted({name for row in rows for name in row["benchmarks"]})


def _row(members: Members, state: State, judged: Mapping[tuple[str, str], Row], latest: Path) -> Row:
    member = state.member
    row: Row = {"run": member.name, "method": member.method, "experiment": member.experiment, "seed": member.seed}
    row |= {"data_size": member.data_size} | member.settings | dict.fromkeys(AFTER)
    row |= {"stand": state.stand, "reason": state.reason, "benchmarks": {}} | dict.fromkeys(_judged_names(members))
    if state.summary:
        row |= {"benchmarks": _benchmarks(state.summary)}
        row |= measured(state.summary) | {"report": _link(member.name, Path(member.folders[REPORT]), latest)}
    for against, ending in _against(members):
        if found := judged.get((member.method, against)):
            row |= {f"method_{name}{ending}": found[name] for name in JUDGED}
    return row


def measured(summary: Mapping[str, Any]) -> Row:
    """Return what a run's summary.json says of quality and cost."""
    accuracy, nll, recipe, training = (summary.get(name) or {} for name in ("accuracy", "nll", "recipe", "training"))
    row: Row = {"verdict": summary["verdict"], "nll_kind": nll.get("kind"), "device": recipe.get("device")}
    for name, block in (("accuracy", accuracy), ("nll", nll)):
        tuned, base = block.get("tuned") or {}, block.get("base") or {}
        row |= {name: tuned.get("value"), f"{name}_low": tuned.get("low"), f"{name}_high": tuned.get("high")}
        row |= {f"{name}_base": base.get("value")}
    row |= {"few_shot_base": _few_shot_base(summary)}
    gain = accuracy.get("gain") or {}
    row |= {"gain": gain.get("value"), "gain_low": gain.get("low"), "gain_high": gain.get("high"), "p": gain.get("p")}
    row |= {"questions": (accuracy.get("base") or {}).get("n")}
    seconds, total = recipe.get("training_s"), recipe.get("total_s")
    row |= {"training_minutes": None if seconds is None else seconds * (recipe.get("processes") or 1) / 60}
    row |= {"all_minutes": None if total is None else total / 60, "peak_memory_gib": training.get("peak_memory_gib")}
    worked = (training.get("seconds_per_step") or 0) * (training.get("steps") or 0)
    return row | {"tokens_per_s": training["tokens"] / worked if worked and training.get("tokens") else None}


def _benchmarks(summary: Mapping[str, Any]) -> dict[str, Row]:
    """Return the columns `BENCHMARK` of each set of questions but the test split, under the headline's setting."""
    found = {}
    for key, block in summary.get("comparisons", {}).items():
        name, _, setting = key.partition("/")
        if setting == HEADLINE and name != "test":
            tuned, base = (block["accuracy"].get(who) or {} for who in (TUNED, BASE))
            values = (tuned.get("value"), tuned.get("low"), tuned.get("high"), base.get("value"), _few_shot_base(block))
            found[name] = dict(zip(BENCHMARK, values, strict=True))
    return found


def _few_shot_base(block: Mapping[str, Any]) -> float | None:
    """Return the share of right answers of the base with worked examples; None where it was not asked with any."""
    accuracy = (block.get("few_shot") or {}).get("accuracy") or {}
    value: float | None = (accuracy.get("base") or {}).get("value")
    return value


def _flat(row: Row) -> Row:
    """Return a row with a benchmark's columns beside all others."""
    named = {
        f"benchmark_{name}_{column}": x for name, found in row["benchmarks"].items() for column, x in found.items()
    }
    return row | named


def _against(members: Members) -> list[tuple[str, str]]:
    """Return what methods are compared with, each with the ending of its columns."""
    return [("base", ""), *([(members.baseline, "_baseline")] if members.baseline else [])]


def _judged_names(members: Members) -> list[str]:
    return [f"method_{name}{ending}" for _, ending in _against(members) for name in JUDGED]


def _is_text(name: str) -> bool:
    return name.removesuffix("_baseline").removeprefix("method_") in ("about", "role", "word", "equivalence")


def _cell(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if kind == pl.String and not isinstance(value, str):
        return json.dumps(value)
    return float(value) if kind == pl.Float64 else value


def _link(name: str, report: Path, latest: Path) -> str:
    """Return the path to a report: the published one, or the version's own until it is published."""
    link = latest / name / "report"
    if link.is_symlink() and Path(os.path.normpath(latest / name / link.readlink())).name == report.name:
        return f"{name}/report.html"
    return os.path.relpath(report / "report.html", latest)
