"""The page `results/latest/index.html`: a study's runs compared with each other, and all other published experiments.

Beside it, of a study: `study.parquet` and `study.csv`, the page's table with all columns, and `side-by-side.html`, runs
whose answers stand beside each other. Nothing is loaded from elsewhere, and without scripts only sorting by another
column is missing: pictures are part of the page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dreamtune.files import replace_with
from dreamtune.overview.members import read_members
from dreamtune.overview.others import experiments_of
from dreamtune.report.text import POLICY, allowed, environment

HERE, REPORT = Path(__file__).parent, Path(__file__).parents[1] / "report"
INDEX = "index.html"


def write_page(latest: Path, refused: Mapping[str, str]) -> None:
    """Write the page, and of a study the files beside it.

    Args:
        latest: folder of the published experiments, with members.json where there is a study.
        refused: why a published report must not be read, by the experiment's name.
    """
    members = read_members(latest)
    if members is None:
        _write(latest / INDEX, render(None, experiments_of(latest, refused)))
        return
    from dreamtune.overview.side_by_side import PAGE, render_pairs  # which takes polars and the charts
    from dreamtune.overview.study_view import StudyView
    from dreamtune.overview.table import frame_of

    view = StudyView(members, latest, refused)
    frame = frame_of(members, view.rows)
    with replace_with(latest / "study.parquet") as private:
        frame.write_parquet(private)
    with replace_with(latest / "study.csv") as private:
        frame.write_csv(private)
    if view.pairs:
        _write(latest / PAGE, render_pairs(view.pairs, "Answers side by side"))
    else:
        (latest / PAGE).unlink(missing_ok=True)
    others = experiments_of(latest, refused, {member.name for member in members.runs})
    _write(latest / INDEX, render(view.context(), others))


def render(study: Mapping[str, Any] | None, experiments: list[dict[str, Any]]) -> str:
    """Return the page's HTML; `study` is None where there is none, and `experiments` are the others."""
    style = "".join(path.read_text(encoding="utf-8") for path in (REPORT / "page.css", HERE / "overview.css"))
    script = (HERE / "sort.js").read_text(encoding="utf-8")
    return (
        environment(HERE)
        .get_template("index.html.j2")
        .render(
            study=study,
            experiments=experiments,
            style=Markup(style),
            script=Markup(script),
            policy=POLICY.format(allowed(script)),
        )
    )


def _write(path: Path, text: str) -> None:
    with replace_with(path) as private:
        private.write_text(text, encoding="utf-8")
