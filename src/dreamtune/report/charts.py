"""The report's charts, as Vega-Lite specifications made by altair.

Colours are the page's CSS variables, so that one chart serves light and dark pages. Each figure also has its numbers as
a table and a sentence, for readers who cannot see the chart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from dreamtune.files import finite
from dreamtune.readable import DASH, duration, nats, number, percent
from dreamtune.report.axes import SMALL, axis, in_unit, scientific, spanning, ticks, within
from dreamtune.report.few_shot import COLUMNS, by_column
from dreamtune.report.text import READING_NAMES

BASE, TUNED = "base", "tuned"
INK, MUTED, GRID, GREY, ACCENT, WARN = (f"var(--{name})" for name in ("ink", "muted", "grid", "grey", "accent", "red"))
WHO = alt.Scale(domain=[BASE, TUNED], range=[GREY, ACCENT])
ANSWERING = dict(zip(COLUMNS, (GREY, "var(--amber)", ACCENT, MUTED), strict=True))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
ROOM, ROOM_FOR_TIMES = 1.35, 1.8  # length of an axis against its longest bar, so that a text fits behind the bar
NAME_WIDTH = 190  # pixels that the names of bars may take
MAX_POINTS = 1_500  # points of one curve
THEME: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": MUTED, "titleColor": MUTED, "gridColor": GRID, "domain": False, "ticks": False},
        **{
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelPadding": 6,
            "titlePadding": 10,
            "labelOverlap": "greedy",  # where a phone leaves too little room, some labels are left out …
            "labelSeparation": 8,  # … and none touch
        },
    },
    "legend": {"labelColor": INK, "labelFontSize": 13, "title": None, "orient": "top", "symbolStrokeWidth": 2.5},
    "line": {"strokeWidth": 2},
}


@dataclass(frozen=True)
class Figure:
    """One chart: its Vega-Lite specification, and its content as a sentence and as a table."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def accuracy_figure(summary: dict[str, Any]) -> Figure | None:
    """Return accuracy with intervals, base beside tuned, for each question set and setting; None without data.

    Where there is only one set and setting, all three readings are shown.
    """
    data, rows = [], []
    readings, alone = list(READING_NAMES.items()), len(summary["comparisons"]) == 1
    for name, block in summary["comparisons"].items():
        for reading, label in readings if alone else readings[:1]:
            if block[reading]["gain"]["value"] is None:
                continue
            where = label if alone else name.replace("/", " · ")
            sides = by_column(block, reading)
            data += [
                {"where": where, "model": who, **{k: side[k] for k in ("value", "low", "high")}}
                for who, side in sides.items()
            ]
            rows.append((where, sides))
    if not data:
        return None
    shown = [who for who in ANSWERING if any(who in sides for _, sides in rows)]
    cells = tuple(
        (where, *(_share(sides[who]) if who in sides else DASH for who in shown), str(sides[BASE]["n"]))
        for where, sides in rows
    )
    y = alt.Y("where:N", title=None, sort=None, axis=_names(), scale=alt.Scale(paddingInner=0.45))
    x, marks = alt.Scale(domain=[0, 1]), [0, 0.25, 0.5, 0.75, 1]
    offset = alt.YOffset("model:N", sort=shown)
    colors = alt.Scale(domain=shown, range=[ANSWERING[who] for who in shown])
    color = alt.Color("model:N", scale=colors, legend=alt.Legend(columns=2))  # four names are too wide for a phone
    bars = chart_of(data).mark_rule(strokeWidth=2.5, strokeCap="round").encode(
        alt.X("low:Q", scale=x, title="share of questions", axis=axis(marks, [f"{m:.0%}" for m in marks])),
        alt.X2("high:Q"),
        y, offset, color,
    )  # fmt: skip
    dots = chart_of(data).mark_point(filled=True, size=90, opacity=1).encode(
        alt.X("value:Q", scale=x), y, offset, color,
        tooltip=["where:N", "model:N", *(alt.Tooltip(f"{c}:Q", format=".1%") for c in ("value", "low", "high"))],
    )  # fmt: skip
    spec = spec_of(alt.layer(bars, dots), height=18 * len(shown) * len(rows))
    caption = "Dots are shares of questions answered correctly, bars their intervals."
    return Figure("accuracy", "Accuracy", caption, spec, ("questions", *shown, "n"), cells)


def mask_rate_figure(likelihood: dict[str, Any]) -> Figure | None:
    """Return the cross entropy of a masked token by mask rate; the last point masks everything. None without data."""
    bins = likelihood.get("by_mask_rate") or []
    blind = likelihood.get("everything_masked") or {}
    if not bins:
        return None
    places = [(f"{100 * b['low']:.0f}–{100 * b['high']:.0f}", b) for b in bins]
    if blind.get(BASE) is not None:
        places.append(("all", blind))
    data = [{"masked": place, "model": who, "nats": b[who]} for place, b in places for who in (BASE, TUNED)]
    values = ticks(0, max((d["nats"] for d in data if d["nats"] is not None), default=1))
    lines = chart_of(data).mark_line(point=alt.OverlayMarkDef(filled=True, size=50)).encode(
        alt.X("masked:O", sort=None, title="masked share of the response, %", axis=alt.Axis(labelAngle=0)),
        alt.Y("nats:Q", title="nats per masked token", scale=spanning(values), axis=axis(values)),
        alt.Color("model:N", scale=WHO),
        tooltip=["masked:O", "model:N", alt.Tooltip("nats:Q", format=".3f")],
    )  # fmt: skip
    rows = tuple((place, nats(b[BASE]), nats(b[TUNED])) for place, b in places)
    caption = "Held-out response tokens, identical masks for both models; all: everything is masked. Lower is better."
    return Figure(
        "mask-rate", "NLL by mask rate", caption, spec_of(lines, height=260), ("masked", BASE, TUNED), rows
    )  # fmt: skip


def training_figures(log: Sequence[dict[str, Any]]) -> list[Figure]:
    """Return loss, validation NLL, learning rate and speed against optimiser steps, those that were logged."""
    steps = [row for row in log if row.get("loss") is not None and row.get("step") is not None]
    validations = [row for row in log if row.get("validation_nll") is not None]
    figures = [_loss(_thin(steps))] if steps else []
    if validations:
        title, caption = "Validation", "NLL of validation rows, on masks that never change. Lower is better."
        figures.append(
            _curve("validation", title, caption, validations, "validation_nll", "nats per token", points=True)
        )
    if any(row.get("lr") is not None for row in steps):
        figures.append(
            _curve("learning-rate", "Learning rate", "The schedule as it ran.", _thin(steps), "lr", None, zero=True)
        )
    if any(row.get("tokens_per_s") for row in steps):
        title, caption = "Training speed", "Tokens per second of the logged steps."
        figures.append(_curve("speed", title, caption, _thin(steps), "tokens_per_s", "tokens/s", zero=True))
    return figures


def lengths_figure(lengths: pl.DataFrame | None, max_tokens: int | None) -> Figure | None:
    """Return a histogram of the examples' lengths before truncation, with the limit; None without data."""
    if lengths is None or "tokens" not in lengths.columns:
        return None
    tokens = lengths["tokens"].drop_nulls()
    if not len(tokens):
        return None
    width = max(1, -(-int(tokens.max() or 1) // 40))  # type: ignore[operator,arg-type]
    edge = max_tokens or 0  # a bar ends at the limit, so that none straddles it
    counts = (-((edge - tokens) // width)).alias("bar").value_counts().sort("bar")
    ends = [(edge + int(bar) * width, int(n)) for bar, n in counts.iter_rows()]
    data = [{"from": max(0, end - width), "to": end, "rows": n} for end, n in ends]
    x = ticks(0, data[-1]["to"], whole=True)
    y = ticks(0, max(bar["rows"] for bar in data), 4, whole=True)
    bars = chart_of(data).mark_bar(color=GREY, opacity=0.7).encode(
        alt.X("from:Q", bin="binned", title="tokens of an example before truncation", scale=spanning(x), axis=axis(x)),
        alt.X2("to:Q"), alt.Y("rows:Q", title="rows", scale=spanning(y), axis=axis(y)),
        tooltip=["from:Q", "to:Q", "rows:Q"],
    )  # fmt: skip
    layers = [bars]
    caption = "Prompt, response and end token."
    if max_tokens is not None and max_tokens <= data[-1]["to"]:
        layers.append(chart_of([{"limit": max_tokens}]).mark_rule(color=WARN, strokeWidth=1.5).encode(alt.X("limit:Q")))
        caption += f" The line is max_tokens = {max_tokens:,}."
    rows = tuple((f"{d['from'] + 1:,}–{d['to']:,}", f"{d['rows']:,}") for d in data)
    return Figure("lengths", "Lengths", caption, spec_of(alt.layer(*layers), height=220), ("tokens", "rows"), rows)


def truncation_figure(audit: dict[str, Any]) -> Figure | None:
    """Return a chart of how many answers each truncation policy would lose; None without data."""
    policies = audit.get("policies") or {}
    if not policies:
        return None
    total, chosen = audit.get("rows_with_text"), audit.get("too_long")
    data = [{"policy": p, "answers": v.get("answers_lost", 0), "used": p == chosen} for p, v in policies.items()]
    y = alt.Y("policy:N", title=None, sort=None, axis=_names())
    most = max(d["answers"] for d in data)
    values = ticks(0, most, 4, whole=True)
    scale = alt.Scale(domain=[0, max(values[-1], ROOM * most)])
    base = chart_of(data).encode(y)
    bars = base.mark_bar(height=16).encode(
        alt.X("answers:Q", title="answers lost", axis=axis(values), scale=scale),
        color=alt.Color("used:N", scale=alt.Scale(domain=[True, False], range=[ACCENT, GREY]), legend=None),
    )
    labels = base.mark_text(align="left", dx=5, color=INK).encode(alt.X("answers:Q"), alt.Text("answers:Q"))
    rows = tuple(
        (
            p + (" (used)" if p == chosen else ""),
            *(number(v.get(k)) for k in ("rows_lost", "answers_lost", "rows_shortened")),
        )
        for p, v in policies.items()
    )
    caption = f"Of {number(total)} rows with text, at max_tokens = {number(audit.get('max_tokens'))}."
    return Figure(
        "truncation", "What truncation would cost", caption, spec_of(alt.layer(bars, labels), height=30 * len(data)),
        ("policy", "rows lost", "answers lost", "rows shortened"), rows,
    )  # fmt: skip


def stages_figure(wall_s: dict[str, float]) -> Figure | None:
    """Return a chart of each stage's wall seconds, "answers/test/…" as "answers/…"; None without data."""
    stages = [(name.replace("/test/", "/"), seconds) for name, seconds in wall_s.items() if name != "total"]
    if not stages:
        return None
    longest = max(seconds for _, seconds in stages)
    unit, unit_name = in_unit(longest)
    data = [{"stage": name, "time": seconds / unit, "words": duration(seconds)} for name, seconds in stages]
    values = ticks(0, longest / unit, 4)
    scale = alt.Scale(domain=[0, max(values[-1], ROOM_FOR_TIMES * longest / unit)])
    base = chart_of(data).encode(alt.Y("stage:N", title=None, sort=None, axis=_names()))
    bars = base.mark_bar(color=GREY, opacity=0.7, height=12).encode(
        alt.X("time:Q", title=f"wall time, {unit_name}", axis=axis(values), scale=scale)
    )
    labels = base.mark_text(align="left", dx=5, color=INK).encode(alt.X("time:Q"), alt.Text("words:N"))
    rows = tuple((name, duration(seconds)) for name, seconds in wall_s.items())
    caption = f"Together {duration(wall_s.get('total'))}; imports and model loading included."
    spec = spec_of(alt.layer(bars, labels), height=22 * len(data))
    return Figure("stages", "Where the time went", caption, spec, ("stage", "wall time"), rows)


def _loss(steps: Sequence[dict[str, Any]]) -> Figure:
    data = [{"step": row["step"], "loss": row["loss"]} for row in steps]
    losses = sorted(row["loss"] for row in data)
    log = losses[0] > 0 and losses[-1 - len(losses) // 20] > 20 * losses[len(losses) // 20]  # single windows are noise
    if log:
        values = [m * 10.0**e for e in range(-6, 7) for m in (1, 3) if losses[0] <= m * 10.0**e <= losses[-1]]
        texts, scale = [f"{v:g}" if v >= SMALL else scientific(v) for v in values], alt.Scale(type="log")
    else:
        values = ticks(min(0, losses[0]), losses[-1])
        texts, scale = None, spanning(values)
    y = alt.Y("loss:Q", title="loss" + (" (log scale)" if log else ""), axis=axis(values, texts), scale=scale)
    x = _step_axis(data)
    dots = (
        chart_of(data)
        .mark_point(size=12, opacity=0.35, color=GREY, filled=True)
        .encode(x, y, tooltip=["step:Q", "loss:Q"])
    )
    near = 5 if len(data) > 150 else 2  # neighbours on either side: a wide mean would blur a short run's start
    smooth = chart_of(data).transform_window(mean="mean(loss)", frame=[-near, near], sort=[alt.SortField("step")])
    line = smooth.mark_line(color=ACCENT).encode(x, alt.Y("mean:Q"))
    rows = tuple((str(row["step"]), number(row["loss"])) for row in data[:: max(1, len(data) // 20)])
    caption = "Dots are logged windows, the line a running mean."
    return Figure("loss", "Training loss", caption, spec_of(alt.layer(dots, line), height=260), ("step", "loss"), rows)


def _curve(
    name: str, title: str, caption: str, log: Sequence[dict[str, Any]], field: str, unit: str | None,
    points: bool = False, zero: bool = False,
) -> Figure:  # fmt: skip
    data = [{"step": row["step"], "value": row[field]} for row in log if row.get(field) is not None]
    found = [row["value"] for row in data]
    values = ticks(min(0, *found) if zero else min(found), max(found), 4)
    y = alt.Y("value:Q", title=unit, scale=spanning(values), axis=axis(values))
    line = chart_of(data).mark_line(color=ACCENT, point=alt.OverlayMarkDef(color=ACCENT) if points else False)
    rows = tuple((str(row["step"]), number(row["value"])) for row in data[:: max(1, len(data) // 20)])
    encoded = line.encode(_step_axis(data), y, tooltip=["step:Q", "value:Q"])
    return Figure(name, title, caption, spec_of(encoded, height=180), ("step", unit or title.lower()), rows)


def _step_axis(data: Sequence[dict[str, Any]]) -> alt.X:
    """Return the axis of optimiser steps, which ends at the last one."""
    first, last = data[0]["step"], max(row["step"] for row in data)
    values = within(min(0, first), last, whole=True)
    scale = alt.Scale(domain=[min(0, first), max(last, values[-1])], nice=False)
    return alt.X("step:Q", title="optimiser step", scale=scale, axis=axis(values))


def _names() -> alt.Axis:
    """Return the axis of bars that are told apart by their names; on a narrow page a name is cut off."""
    return alt.Axis(grid=False, labelLimit=NAME_WIDTH, labelOverlap=False, labelPadding=10)


def _thin(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every n-th row, for the smallest n that leaves at most MAX_POINTS."""
    return list(rows[:: -(-len(rows) // MAX_POINTS) or 1])


def chart_of(data: list[dict[str, Any]]) -> alt.Chart:
    """Return a chart, still without marks, of these rows."""
    return alt.Chart(alt.Data(values=finite(data)))


def spec_of(chart: Any, height: Any) -> dict[str, Any]:
    """Return a chart's Vega-Lite specification, as wide as its place on the page."""
    fitted = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=fitted).to_dict()
    return spec | {"config": THEME}


def _share(side: dict[str, Any]) -> str:
    return f"{percent(side['value'])} ({percent(side['low'])} to {percent(side['high'])})"
