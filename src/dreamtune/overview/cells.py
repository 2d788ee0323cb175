"""The table of runs as the page shows it: a heading and a cell for each column, with what it is sorted by."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamtune.overview.members import Members
from dreamtune.overview.table import Row, benchmarks_of
from dreamtune.readable import DASH, nats, number, p_value, percent, points
from dreamtune.report.axes import scientific
from dreamtune.report.front import MOODS
from dreamtune.report.text import plain, reveal
from dreamtune.study.names import SHORT

MOST_SETTINGS = 8  # columns of settings on the page; study.csv has all
NUMERIC = "num"
BASES = "those of the run's base model; few-shot: with worked examples before each question"
METHOD = "of the run's method, over its seeds: gain, interval, word, adjusted p"


@dataclass(frozen=True)
class Cell:
    """A cell: its text, smaller lines under it, what it is sorted by (None is always last), and its class."""

    text: str
    below: str = ""
    sort: float | str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its heading, what the heading means, its cells, and whether one click sorts the largest first."""

    heading: str
    about: str
    cell: Callable[[Row], Cell]
    falling: bool = False


def columns_of(members: Members, rows: Sequence[Row], compared: bool) -> tuple[list[Column], list[str]]:
    """Return the columns behind the run's name; and the settings that differ and have none, with the reason.

    Args:
        members: the study.
        rows: of the table.
        compared: whether the stage `study` has run; before that, the gains of single adapters have a column.
    """
    shown, left = shown_settings(members)
    columns = [Column("Accuracy", "right answers to the test questions, with its interval", _accuracy, falling=True)]
    if any(row["accuracy_base"] is not None for row in rows):
        columns.append(Column("Base", BASES, _base, falling=True))
    for name in benchmarks_of(rows):
        about = f"right answers to the benchmark {name}, with its interval; then {BASES}"
        columns.append(Column(name, about, _benchmark(name), falling=True))
    columns += [Column(heading(name, members.settings), name, _setting(name)) for name in shown]
    if any(run.data_size for run in members.runs):
        columns.append(Column("rows", "training rows by data_sizes", _size))
    if len({run.seed for run in members.runs}) > 1:
        columns.append(Column("seed", "train.seed", lambda row: Cell(str(row["seed"]), "", row["seed"], NUMERIC)))
    columns.append(Column("State", "of the run, by its own report", _state))
    if compared:
        columns.append(Column("Method against base", METHOD, _judged("", members.primary), falling=True))
    else:
        columns.append(Column("Gain, points", "of this run over the base, interval, raw p", _gain, falling=True))
    if compared and members.baseline:
        name, about = members.baseline, f"{METHOD}; the baseline is {members.baseline}"
        columns.append(Column(f"Against {name}", about, _judged("_baseline", members.primary), falling=True))
    minutes = "wall minutes of the full training, times its processes"
    return [
        *columns,
        *_likelihoods(rows),
        Column(_minutes(rows), minutes, _number("training_minutes")),
        Column("Peak, GiB", "peak memory of training", _number("peak_memory_gib")),
        Column("Tokens/s", "of training", _number("tokens_per_s"), falling=True),
    ], left


def shown_settings(members: Members) -> tuple[list[str], list[str]]:
    """Return the settings that have a column; and those that have none: they change with one that has, or do not fit.

    `finetuning` and `quantization` say the same where all full fine-tuning, and nothing else, is unquantised.
    """
    shown: dict[tuple[int, ...], str] = {}
    left = []
    for name in members.settings:
        values = [json.dumps(run.settings[name]) for run in members.runs]
        places = {value: i for i, value in enumerate(dict.fromkeys(values))}
        parts = tuple(places[value] for value in values)
        if parts in shown:
            left.append(f"{name} (changes with {heading(shown[parts], members.settings)})")
        elif len(shown) == MOST_SETTINGS:
            left.append(name)
        else:
            shown[parts] = name
    return list(shown.values()), left


def heading(setting: str, settings: Sequence[str]) -> str:
    """Return a setting's name as a heading: its last part, or all of it if another one ends alike.

    >>> heading("train.lora.rank", ["train.lora.rank"]), heading("train.epochs", ["train.epochs", "full.epochs"])
    ('rank', 'train.epochs')
    """
    last = setting.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in settings) == 1
    return SHORT.get(last, last).replace("_", " ") if alone else setting


def table_rows(members: Members, rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return the page's rows: name, link (None without a report), class, and the cells."""
    moods = {"ended": "bad", "failed": "bad", "invalid": "bad", "unfinished": "warn"}
    return [
        {
            "name": row["run"],
            "link": row["report"],
            "mood": moods.get(row["stand"], ""),
            "cells": [column.cell(row) for column in columns],
        }
        for row in rows
    ]


def unbroken(text: str) -> str:
    """Return a text in which no line ends within a statement on p, such as p = 0.012."""
    return re.sub(r"\bp ([=<]) ", "p\u00a0\\1\u00a0", text)


def _setting(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = row[name]
        if isinstance(value, float):
            return Cell(scientific(value) if 0 < abs(value) < 1e-2 else number(value), "", value, NUMERIC)
        if isinstance(value, int) and not isinstance(value, bool):
            return Cell(number(value), "", value, NUMERIC)
        text = plain(value)
        return Cell(text if len(text) <= 60 else f"{text[:57]}…", "", None if value is None else text)

    return cell


def _size(row: Row) -> Cell:
    size = row["data_size"]
    return Cell("all" if size is None else number(size), "", 1e99 if size is None else size, NUMERIC)


def _state(row: Row) -> Cell:
    stand = row["stand"]
    if stand == "finished":
        verdict = row["verdict"]
        return Cell(reveal(verdict, 80), "", verdict, f"state {MOODS.get(verdict, '')}".strip())
    return Cell(stand, row["reason"], stand, "state reason")


def _accuracy(row: Row) -> Cell:
    below = _limits(percent, row["accuracy_low"], row["accuracy_high"])
    return Cell(percent(row["accuracy"]), below, row["accuracy"], NUMERIC)


def _base(row: Row) -> Cell:
    return Cell(percent(row["accuracy_base"]), _few_shot(row), row["accuracy_base"], NUMERIC)


def _benchmark(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        if (found := row["benchmarks"].get(name)) is None or found["accuracy"] is None:
            return Cell(DASH)
        base = "" if found["accuracy_base"] is None else f"base {percent(found['accuracy_base'])}"
        below = [_limits(percent, found["accuracy_low"], found["accuracy_high"]), base, _few_shot(found)]
        return Cell(percent(found["accuracy"]), "\n".join(filter(None, below)), found["accuracy"], NUMERIC)

    return cell


def _few_shot(found: Mapping[str, Any]) -> str:
    return "" if found["few_shot_base"] is None else f"few-shot {percent(found['few_shot_base'])}"


def _gain(row: Row) -> Cell:
    said = [_limits(points, row["gain_low"], row["gain_high"]), p_value(row["p"]) if row["p"] is not None else ""]
    return Cell(points(row["gain"]), "\n".join(filter(None, said)), row["gain"], NUMERIC)


def _judged(ending: str, primary: str) -> Callable[[Row], Cell]:
    show: Callable[[Any], str] = points if primary == "accuracy" else (lambda value: nats(value, True))

    def cell(row: Row) -> Cell:
        found: Mapping[str, Any] = {
            name: row[f"method_{name}{ending}"] for name in ("gain", "low", "high", "p_adjusted", "word")
        }
        if found["gain"] is None:
            return Cell(DASH)
        word = found["word"] + (
            f", {unbroken(p_value(found['p_adjusted']))}" if found["p_adjusted"] is not None else ""
        )
        limits = _limits(show, found["low"], found["high"])
        kind = f"{NUMERIC} {MOODS.get(found['word'], '')}".strip()
        return Cell(show(found["gain"]), "\n".join(filter(None, (limits, word))), found["gain"], kind)

    return cell


def _likelihoods(rows: Sequence[Row]) -> list[Column]:
    """Return a column of the held-out NLL; of bounds and exact numbers, which do not compare, one for each kind."""
    kinds = sorted({row["nll_kind"] for row in rows if row["nll"] is not None and row["nll_kind"] is not None})
    about = "nats per token, lower is better, with its interval"
    if len(kinds) < 2:
        return [Column("Held-out NLL", about, _nll)]
    apart = "; numbers of different kinds do not compare"
    return [Column(f"Held-out NLL, {kind}", about + apart, _nll_of(kind)) for kind in kinds]


def _nll_of(kind: str) -> Callable[[Row], Cell]:
    return lambda row: _nll(row) if row["nll_kind"] == kind else Cell(DASH)


def _nll(row: Row) -> Cell:
    below = [_limits(nats, row["nll_low"], row["nll_high"]), row["nll_kind"] if row["nll"] is not None else ""]
    return Cell(nats(row["nll"]), "\n".join(filter(None, below)), row["nll"], NUMERIC)


def _number(name: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(number(row[name]), "", row[name], NUMERIC)


def _minutes(rows: Sequence[Row]) -> str:
    """Return the heading of the minutes: of GPUs, of CPUs, or of both."""
    devices = {row["device"] for row in rows} - {None}
    return "GPU min" if devices == {"cuda"} else "CPU min" if "cuda" not in devices else "Minutes"


def _limits(show: Callable[[Any], str], low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"
