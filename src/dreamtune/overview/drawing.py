"""Charts as SVG that stand in the page itself, so that they need no script, in two widths: of a phone, and of a desk.

Vega-Lite draws them while the page is made (vl-convert). Colours are the page's CSS variables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from dreamtune.report.axes import axis, labels, scientific, spanning, ticks
from dreamtune.report.charts import INK, THEME

WIDE, NARROW = 680, 340  # pixels
GOOD, BAD, AMBER = "var(--good)", "var(--red)", "var(--amber)"
MOOD = {"improved": GOOD, "worse": BAD}
FAR = 20.0  # largest over smallest value, from which an axis is logarithmic


@dataclass(frozen=True)
class Picture:
    """A chart in both widths, with its content as a sentence and as a table.

    Attributes:
        left_out: what the chart does not show, in one sentence; "" if it shows all.
    """

    name: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: str = ""


def both(make: Callable[[int], Any]) -> tuple[Markup, Markup]:
    """Return the SVG of a chart in the two widths; `make` gets the width in pixels."""
    return _svg(make(WIDE)), _svg(make(NARROW))


def sized(chart: Any, width: int, height: int) -> Any:
    """Return a chart of this width, axes included; `height` is that of the plot."""
    return chart.properties(width=width, height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))


def name_lines(chart: alt.Chart, field: str = "name:N", y: str = "row:O", size: int = 12) -> alt.Chart:
    """Return the layer with a name above each row, where it has the chart's whole width, however long it is."""
    return chart.mark_text(align="left", baseline="bottom", dx=4, dy=-7, fontSize=size, color=INK).encode(
        x=alt.value(0), y=alt.Y(y, axis=None, sort=None), text=field
    )


def log_axis(values: Sequence[float], field: str, title: str) -> alt.X:
    """Return the axis of a cost or size: logarithmic where its values are far apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low > FAR:
        marks = [m * 10.0**e for e in range(-6, 10) for m in (1, 3) if low / 1.5 <= m * 10.0**e <= high * 1.5]
        texts = [f"{mark:g}" if 1e-3 <= mark < 1e6 else scientific(mark) for mark in marks]
        scale = alt.Scale(type="log", domain=[low / 1.3, high * 1.3], nice=False)
        return alt.X(field, title=f"{title} (log scale)", axis=axis(marks, texts), scale=scale)
    marks = ticks(0, high, 5)
    return alt.X(field, title=title, axis=axis(marks, labels(marks)), scale=spanning(marks))


def _svg(chart: Any) -> Markup:
    drawn = vl_convert.vegalite_to_svg(chart.to_dict() | {"config": THEME})
    # The figure's sentence and table say the same to those who cannot see it.
    return Markup(drawn.replace("<svg ", '<svg aria-hidden="true" ', 1))
