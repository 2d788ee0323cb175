"""The page's pictures of a study: gains with their intervals, and quality against cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from dreamtune.overview.drawing import MOOD, Picture, both, log_axis, name_lines, sized
from dreamtune.overview.pareto import Spot, front
from dreamtune.readable import DASH, nats, number, p_value, percent, points
from dreamtune.report.axes import axis, labels, spanning, ticks
from dreamtune.report.charts import GREY, INK, MUTED, chart_of
from dreamtune.report.text import plain

LEAST = 0.01  # gain that an axis reaches at least
MOST_ROWS = 30  # of a forest plot
ROW = 36  # pixels
METHOD, ADAPTERS = "a method, over its seeds", "adapters: says nothing of the method"


def forest(name: str, title: str, comparisons: Sequence[Mapping[str, Any]], primary: str) -> Picture | None:
    """Return gains with their intervals, as many as fit: the family first, then the largest; None without any.

    Args:
        comparisons: of study.json, all against the same. What was not tested, such as an invalid run's, is left out.
    """
    tested = [row for row in comparisons if row["low"] is not None and row["p"] is not None]
    order = sorted(tested, key=lambda row: (row["role"] != "confirmatory", -row["gain"]))
    shown = order[:MOST_ROWS]
    if not shown:
        return None
    rows = [
        {
            "name": _who(row) + ("" if row["role"] == "confirmatory" else ", exploratory"),
            "mean": row["gain"],
            **{key: row[key] for key in ("low", "high")},
            "about": METHOD if row["about"] == "method" else ADAPTERS,
            "color": MOOD.get(row["word"], INK if row["role"] == "confirmatory" else GREY),
        }
        for row in shown
    ]
    show = points if primary == "accuracy" else _signed
    table = tuple(
        (
            _who(row),
            show(row["gain"]),
            _limits(show, row["low"], row["high"]),
            _limits(show, row["simultaneous_low"], row["simultaneous_high"]),
            p_value(row["p"]),
            p_value(row["p_adjusted"]),
            row["word"],
            "method" if row["about"] == "method" else "these adapters",
        )
        for row in shown
    )
    caption = (
        "Bars are the intervals of each comparison alone. Filled circles are methods with at least three seeds, hollow "
        "diamonds single adapters or two of them, which say nothing of their method. Green is improved and red worse, "
        "by the adjusted test; all else is black, and grey if it is exploratory."
    )
    left, untested = len(order) - len(shown), len(comparisons) - len(tested)
    said = f"{left} further comparisons stand in the table of runs and in study.csv. " if left else ""
    if untested:
        said += f"{untested} not tested, since a run of theirs is invalid, none finished, or questions are too few."
    columns = ("comparison", "gain", "interval", "limits for all together", "p", "adjusted p", "word", "about")
    return Picture(name, title, caption, *interval_chart(rows, primary), columns, table, said.strip())


def effects_picture(number_of: int, grid: Mapping[str, Any], primary: str) -> Picture | None:
    """Return the main effects of a grid with their intervals; None without any."""
    effects = grid["effects"][:MOST_ROWS]
    if not effects:
        return None
    said = [f"{e['setting']}: {plain(_value(e['other']))} in place of {plain(_value(e['first']))}" for e in effects]
    rows = [
        {"name": text, "mean": e["change"]["value"], "low": e["change"]["low"], "high": e["change"]["high"]}
        | {"about": METHOD, "color": INK}
        for text, e in zip(said, effects, strict=True)
    ]
    show = points if primary == "accuracy" else _signed
    table = tuple(
        (text, show(e["change"]["value"]), _limits(show, e["change"]["low"], e["change"]["high"]), number(e["runs"]))
        for text, e in zip(said, effects, strict=True)
    )
    left = len(grid["effects"]) - len(effects)
    return Picture(
        f"effects-{number_of}",
        f"{grid['experiment']}: mean effect of each setting",
        f"Averaged over the other settings, from {grid['runs']} runs. Exploratory: nothing is corrected.",
        *interval_chart(rows, primary),
        ("setting", "change", "interval", "runs with the value"),
        table,
        f"{left} further values stand in study.json." if left else "",
    )


def interval_chart(rows: Sequence[Mapping[str, Any]], primary: str) -> tuple[Markup, Markup]:
    """Return both widths of a chart with a dot and an interval in each row, its name above it, and a line at 0."""
    unit, scale = ("points", 100) if primary == "accuracy" else ("nats per token by which the NLL falls", 1)
    data = [
        dict(row)
        | {"row": i}
        | {key: None if row[key] is None else row[key] * scale for key in ("mean", "low", "high")}
        for i, row in enumerate(rows)
    ]
    found = [row[key] for row in data for key in ("mean", "low", "high") if row[key] is not None]
    marks = ticks(min(0, *found), max(0, *found, LEAST * scale), 6)
    y = alt.Y("row:O", axis=None, sort=None)
    color = alt.Color("color:N", scale=None)
    x = alt.X(
        "mean:Q", scale=spanning(marks), title=f"gain, {unit}", axis=axis(marks, [_plus(t) for t in labels(marks)])
    )

    def make(width: int) -> Any:
        zero = chart_of([{"at": 0}]).mark_rule(color=MUTED, strokeWidth=1.5).encode(alt.X("at:Q"))
        bars = chart_of([row for row in data if row["low"] is not None]).mark_rule(strokeWidth=2.5, strokeCap="round")
        dots = chart_of([row for row in data if row["about"] == METHOD]).mark_point(filled=True, size=90, opacity=1)
        hollow = chart_of([row for row in data if row["about"] != METHOD]).mark_point(
            shape="diamond", size=100, opacity=1, strokeWidth=2
        )
        layers = [zero, bars.encode(alt.X("low:Q"), alt.X2("high:Q"), y, color), dots.encode(x, y, color)]
        layers += [hollow.encode(x, y, color, fill=alt.value("var(--paper)")), name_lines(chart_of(data))]
        return sized(alt.layer(*layers), width, ROW * len(data) + 12)

    return both(make)


def cost_picture(spots: Sequence[Spot], device: str, primary: str) -> Picture | None:
    """Return quality against minutes of training, with the front of what no other method beats; None without any."""
    if len(spots) < 2:
        return None
    best, factor = front(spots), 100 if primary == "accuracy" else -1
    places = {spot.method: str(i) for i, spot in enumerate(best, 1)}
    data: list[dict[str, Any]] = [
        {"cost": spot.cost, "quality": factor * spot.quality, "place": places.get(spot.method, "")} for spot in spots
    ]
    ahead = [row for row in data if row["place"]]
    marks = ticks(min(row["quality"] for row in data), max(row["quality"] for row in data), 5)
    title = "right answers, %" if primary == "accuracy" else "NLL, nats per token (lower is better)"
    x = log_axis([spot.cost for spot in spots], "cost:Q", f"{device} minutes of training")
    y = alt.Y("quality:Q", title=title, scale=spanning(marks), axis=axis(marks))

    def make(width: int) -> Any:
        others = chart_of([row for row in data if not row["place"]]).mark_point(
            filled=True, size=40, opacity=0.6, color=GREY
        )
        line = chart_of(ahead).mark_line(color=INK, strokeWidth=1, interpolate="step-after").encode(x, y)
        dots = chart_of(ahead).mark_point(filled=True, size=240, opacity=1, color=INK).encode(x, y)
        texts = chart_of(ahead).mark_text(color="var(--paper)", fontSize=11, fontWeight="bold")
        layers = [others.encode(x, y), line, dots, texts.encode(x, y, alt.Text("place:N"))]
        return sized(alt.layer(*layers), width, 300)

    show = percent if primary == "accuracy" else (lambda value: nats(-value))
    table = tuple(
        (places[s.method], s.method, show(s.quality), number(s.cost), number(s.runs))
        for s in sorted(best, key=lambda spot: int(places[spot.method]))
    )
    caption = (
        f"Means over each method's valid runs. The numbered ones ({len(best)} of {len(spots)}) are the front: no "
        f"other method is better and cheaper. Without intervals: a place on the front may be luck."
    )
    columns = ("place", "method", "right" if primary == "accuracy" else "NLL", f"{device} minutes", "runs")
    return Picture("cost", "Quality against cost", caption, *both(make), columns, table)


def _who(row: Mapping[str, Any]) -> str:
    seeds = row["seeds"]
    return f"{row['method']} ({seeds} seed{'' if seeds == 1 else 's'})"


def _limits(show: Any, low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"{show(low)} to {show(high)}"


def _signed(value: float) -> str:
    return nats(value, True)


def _plus(text: str) -> str:
    return text if text.startswith("−") or not text.strip("0.,") else f"+{text}"


def _value(value: Any) -> Any:
    """Return a grid's value as text, if it is a mapping: rank 4, alpha 8."""
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
