"""What the report shows of the smoke run: the curve of its range test."""

from typing import Any

import altair as alt

from dreamtune.readable import number, percent
from dreamtune.report.axes import axis, scientific, spanning, ticks
from dreamtune.report.charts import ACCENT, GREY, MUTED, Figure, chart_of, spec_of

SHOWN = 0.5  # most of the loss's rise above its start that is drawn: where it diverges, the valley would be flat
DASHES = [4, 3]


def range_test_figure(found: dict[str, Any]) -> Figure | None:
    """Return the loss against the learning rate, with the rates where it turned and that was chosen; None without data.

    Args:
        found: content of range_test.json, {} if there is none.
    """
    if not found:
        return None
    data = [{"rate": p["learning_rate"], "loss": p["smoothed"]} for p in found["points"] if p["smoothed"] is not None]
    drawn = [point for point in data if point["loss"] <= 1 + SHOWN]
    values = ticks(min(point["loss"] for point in drawn), max(point["loss"] for point in drawn), 4)
    decades = [10.0**power for power in range(-6, 1) if data[0]["rate"] <= 10.0**power <= data[-1]["rate"]]
    scale = alt.Scale(type="log", domain=[data[0]["rate"], data[-1]["rate"]], nice=False)
    x = alt.X("rate:Q", title="learning rate", scale=scale, axis=axis(decades, [scientific(rate) for rate in decades]))
    y = alt.Y("loss:Q", title="loss, relative to its start", scale=spanning(values), axis=axis(values))
    tooltip = [alt.Tooltip("rate:Q", format=".2e"), alt.Tooltip("loss:Q", format=".3f")]
    line = chart_of(drawn).mark_line(color=ACCENT).encode(x, y, tooltip=tooltip)
    rules = [
        chart_of([{"rate": rate}]).mark_rule(color=color, strokeDash=dashes).encode(alt.X("rate:Q"))
        for rate, color, dashes in ((found["turned_at"], MUTED, DASHES), (found["chosen"], GREY, [1, 0]))
    ]
    caption = (
        f"Smoke's range test: the rate grows with each step, the loss is smoothed. It was least at the dashed line, "
        f"{scientific(found['turned_at'])}, {percent(found['fall'])} below its start; a tenth of that rate, "
        f"{scientific(found['chosen'])} (the full line), was trained with."
    )
    rows = tuple((scientific(point["rate"]), number(point["loss"])) for point in data[::3])
    spec = spec_of(alt.layer(line, *rules), height=180)
    return Figure("range-test", "Range test", caption, spec, ("learning rate", "relative loss"), rows)
