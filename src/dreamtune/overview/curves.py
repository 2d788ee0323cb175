"""The page's curves: quality against the size of the data, and each method's losses, its seeds laid over another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import log2
from pathlib import Path
from typing import Any

import altair as alt

from dreamtune.formats.reads import Reads
from dreamtune.formats.training import LOG_FILE
from dreamtune.overview.drawing import AMBER, NARROW, Picture, both, sized
from dreamtune.overview.states import State
from dreamtune.readable import DASH, nats, number, percent, points
from dreamtune.report.axes import axis, spanning, ticks, within
from dreamtune.report.charts import GREY, INK, MUTED, chart_of
from dreamtune.report.text import with_limits

MOST_CURVES = 6  # learning curves over data sizes
MOST_COURSES = 4  # methods whose trend over steps stands in words
MOST_METHODS, MOST_SEEDS, MOST_POINTS = 9, 5, 60  # of curves over steps
SEEDS = [INK, AMBER, GREY, "var(--red)", "var(--good)"]
Log = Sequence[Mapping[str, Any]]


def size_pictures(study: Mapping[str, Any]) -> list[Picture]:
    """Return a picture of each learning curve over data sizes; `study` is the content of study.json."""
    curves = list((study.get("curves") or {}).items())[:MOST_CURVES]
    return [_size_picture(i, name, curve, study["primary"]) for i, (name, curve) in enumerate(curves, 1)]


def _size_picture(place: int, name: str, curve: Mapping[str, Any], primary: str) -> Picture:
    factor, better = (100, 1) if primary == "accuracy" else (1, -1)
    sizes, means = curve["sizes"], [factor * mean for mean in curve["means"]]
    largest, trend, ahead = max(sizes), curve["per_doubling"], curve["next_doubling"]
    dots = [{"size": size, "value": mean} for size, mean in zip(sizes, means, strict=True)]
    line, foretold = _trend(sizes, means, factor * trend["value"]) if trend else [], []
    at_largest = [mean for size, mean in zip(sizes, means, strict=True) if size == largest]
    last = sum(at_largest) / len(at_largest)
    if ahead:
        foretold = [{"size": 2 * largest} | {key: last + factor * ahead[key] for key in ("value", "low", "high")}]
    found = [*means, *(row["value"] for row in line), *(row[key] for row in foretold for key in ("low", "high"))]
    marks = ticks(min(found), max(found), 5)
    title = "right answers, %" if primary == "accuracy" else "NLL, nats per token"
    places = sorted({*sizes, *(row["size"] for row in foretold)})
    x = alt.X(
        "size:Q",
        title="training rows (log scale)",
        axis=axis(places, [number(size) for size in places]),
        scale=alt.Scale(type="log", base=2, domain=[places[0] / 1.1, places[-1] * 1.1], nice=False),
    )
    y = alt.Y("value:Q", title=title, scale=spanning(marks), axis=axis(marks))

    def make(width: int) -> Any:
        layers = [chart_of(dots).mark_point(filled=True, size=60, opacity=0.8, color=INK).encode(x, y)]
        if line:
            layers.append(chart_of(line).mark_line(color=MUTED, strokeWidth=1.5).encode(x, y))
        if foretold:
            bar = chart_of(foretold).mark_rule(color=GREY, strokeWidth=2.5)
            layers.append(bar.encode(x, alt.Y("low:Q", scale=spanning(marks)), alt.Y2("high:Q")))
            hollow = chart_of(foretold).mark_point(size=90, opacity=1, color=GREY, strokeWidth=2)
            layers.append(hollow.encode(x, y, fill=alt.value("var(--paper)")))
        return sized(alt.layer(*layers), width, 240)

    show: Callable[[Any], str] = points if primary == "accuracy" else (lambda value: nats(value, True))
    unit = "points" if primary == "accuracy" else "nats per token"
    said = [f"Each doubling of the data changes it by {with_limits(show, trend, unit)}." if trend else "No trend: "]
    if not trend:
        said = ["Too few runs or sizes for a trend."]
    if ahead:
        said.append(f"Twice the largest size would be expected to change it by {with_limits(show, ahead, unit)}.")
    elif curve["refusal"]:
        said.append(f"Of twice the data {curve['refusal']}.")
    value: Callable[[Any], str] = percent if primary == "accuracy" else nats
    rows = sorted(zip(sizes, curve["means"], curve["runs"], strict=True))
    table = tuple((number(size), value(mean), run) for size, mean, run in rows)
    caption = " ".join([*said, "Dots are runs, the line is the trend, a hollow dot with its bar is the forecast."])
    columns = ("rows", "right" if better > 0 else "NLL", "run")
    return Picture(f"size-{place}", f"{name}: by the size of the data", caption, *both(make), columns, table)


def _trend(sizes: Sequence[float], means: Sequence[float], slope: float) -> list[dict[str, float]]:
    """Return two points of the fitted line, which passes through the means of log₂ size and measure."""
    u = [log2(size) for size in sizes]
    centre, level = sum(u) / len(u), sum(means) / len(means)
    return [{"size": 2**at, "value": level + slope * (at - centre)} for at in (min(u), max(u))]


def loss_picture(states: Sequence[State], methods: Sequence[str]) -> Picture | None:
    """Return the training losses of the seeds of each method, laid over another; None without a log.

    Args:
        states: of the study's runs.
        methods: all that may be shown, the most important first.
    """
    title = ("losses", "Training loss, by seed", "Means over windows of the logged steps, a line for each seed.")
    return _overlaid(states, methods, "loss", *title, "loss")


APART = (
    "That of a causal model is exact, and has no masks; that of a diffusion model is a bound: the two do not compare."
)


def validation_picture(
    states: Sequence[State], methods: Sequence[str], courses: Mapping[str, Mapping[str, Any]] | None = None
) -> Picture | None:
    """Return the NLL of validation rows by step, laid over another as the losses are; None where nobody logged any.

    Args:
        states: of the study's runs.
        methods: all that may be shown, the most important first.
        courses: the trend over steps by method, as study.json has it.
    """
    said = [course_words(method, courses[method]) for method in methods if courses and method in courses]
    more = f"Of {len(said) - MOST_COURSES} further methods study.json has it." if len(said) > MOST_COURSES else ""
    kinds = {(state.summary.get("nll") or {}).get("kind") for state in states} - {None}
    apart = APART if len(kinds) > 1 else ""
    told = filter(None, ["On masks that never change.", apart, *said[:MOST_COURSES], more])
    caption = " ".join(told)
    title = ("validation", "Validation NLL by step, by seed", caption)
    return _overlaid(states, methods, "validation_nll", *title, "nats per token")


def course_words(method: str, course: Mapping[str, Any]) -> str:
    """Return in words how a method's validation NLL falls with the steps, and what twice the steps would give."""
    show = partial(nats, signed=True)
    trend, ahead = course["per_doubling"], course["twice"]
    said = [f"of twice the steps {course['refusal']}"] if course["refusal"] else []
    if ahead:
        limits = with_limits(show, ahead, "nats per token")
        said = [f"twice the steps would be expected to change it by {limits}, on these validation rows"]
    if trend:
        said.insert(0, f"each doubling of the steps changed it by {with_limits(show, trend, 'nats per token')}")
    return f"{method}: {'; '.join(said)}."


def thin(log: Log, field: str, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return (step, value) of the rows that have the field; of more than `most`, means over as many windows.

    >>> thin([{"step": i, "loss": float(i)} for i in range(1, 7)], "loss", most=3)
    [(2, 1.5), (4, 3.5), (6, 5.5)]
    """
    found = [(row["step"], row[field]) for row in log if None not in (row.get("step"), row.get(field))]
    width = -(-len(found) // most) or 1
    windows = [found[i : i + width] for i in range(0, len(found), width)]
    return [(window[-1][0], sum(value for _, value in window) / len(window)) for window in windows]


def _overlaid(
    states: Sequence[State], methods: Sequence[str], field: str, name: str, title: str, caption: str, unit: str
) -> Picture | None:
    """Return small charts side by side, one for each method, with a line for each seed."""
    lines: dict[str, list[tuple[State, list[tuple[float, float]]]]] = {}
    of_method: dict[str, list[State]] = {}
    for state in states:
        of_method.setdefault(state.member.method, []).append(state)
    for method in methods:
        drawn = [(state, line) for state in of_method.get(method, [])[:MOST_SEEDS] if (line := _line(state, field))]
        if drawn:
            lines[method] = drawn
        if len(lines) == MOST_METHODS:
            break
    if not lines:
        return None
    data = list(_rows(lines))
    low, high = min(row["value"] for row in data), max(row["value"] for row in data)
    marks, steps = ticks(min(0, low), high, 4), within(0, max(row["step"] for row in data), 4, whole=True)
    x = alt.X("step:Q", title="step", axis=axis(steps))
    y = alt.Y("value:Q", title=unit, axis=axis(marks), scale=spanning(marks))
    seeds = sorted({row["seed"] for row in data})
    color = alt.Color("seed:N", title=None, sort=seeds, scale=alt.Scale(domain=seeds, range=SEEDS[: len(seeds)]))

    def make(width: int) -> Any:
        columns = min(2 if width == NARROW else 3, len(lines))
        plot = chart_of(data).mark_line(strokeWidth=1.5, opacity=0.8).encode(x, y, color)
        cell = (width - 70) // columns - 25 * (columns > 1)
        header = alt.Header(title=None, labelColor=INK, labelFontSize=12, labelAnchor="start", labelLimit=cell)
        facet = alt.Facet("method:N", sort=list(lines), header=header)
        return plot.properties(width=cell, height=110).facet(facet, columns=columns, spacing=18)

    number_of = len({state.member.method for state in states})
    left = number_of - len(lines)
    table = tuple(
        (state.member.name, number(line[0][1]) if line else DASH, number(line[-1][1]), number(line[-1][0]))
        for drawn in lines.values()
        for state, line in drawn
    )
    said = f"{left} further methods are left out: their own reports have the curves." if left else ""
    return Picture(name, title, caption, *both(make), ("run", f"first {unit}", "last", "steps"), table, said)


def _line(state: State, field: str) -> list[tuple[float, float]]:
    folders = {name: Path(path) for name, path in state.member.folders.items() if name == "full"}
    return thin(Reads(folders).json_lines("full", LOG_FILE), field)


def _rows(lines: Mapping[str, Sequence[tuple[State, Sequence[tuple[float, float]]]]]) -> Iterator[dict[str, Any]]:
    for method, drawn in lines.items():
        for place, (_, line) in enumerate(drawn, 1):
            yield from ({"method": method, "seed": f"replicate {place}", "step": s, "value": v} for s, v in line)
