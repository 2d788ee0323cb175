"""Which points of a study are halved with each other: those of one grid, on one data size.

Only points of grids are: what the family is about (`study.comparisons`, `study.baseline`) is never stopped.
"""

from collections.abc import Mapping
from typing import Any

from dreamtune.errors import UserError
from dreamtune.settings.study import StudyConfig
from dreamtune.study.fields import hint
from dreamtune.study.names import run_name
from dreamtune.study.points import Point, by_method

KEY = "study.halving"


def halved_grids(study: StudyConfig, points: Mapping[str, Point]) -> dict[str, list[Point]]:
    """Return the points that compete with each other, with all their seeds, by their grid's name; {} without halving.

    Points on different data sizes do not compete: otherwise the smaller sizes would stop, and leave no learning curve.

    >>> from dreamtune.settings.study import Halving
    >>> ranks = [Point("qlora", {"train.lora.rank": rank}, rows) for rank in (4, 8) for rows in (250, None)]
    >>> study = StudyConfig(halving=Halving(after=[0.5]))
    >>> {grid: len(found) for grid, found in halved_grids(study, {p.name: p for p in ranks}).items()}
    {'qlora-rows250': 2, 'qlora': 2}

    Args:
        study: its settings.
        points: all runs by name.

    Raises:
        UserError: `of` names what is no experiment or no grid; there is no grid; or the baseline, or a method of
            `study.comparisons`, might be stopped.
    """
    if study.halving is None:
        return {}
    experiments = dict.fromkeys(point.experiment for point in points.values())
    if unknown := [name for name in study.halving.of or [] if name not in experiments]:
        raise UserError(f"{KEY}.of: there is no experiment {unknown[0]!r}; {hint(unknown[0], experiments)}")
    grids: dict[str, list[Point]] = {}
    for point in points.values():
        if point.experiment in (study.halving.of or experiments) and point.coordinates:
            grids.setdefault(run_name(point.experiment, {}, point.data_size, None), []).append(point)
    grids = {name: found for name, found in grids.items() if len(by_method(found)) > 1}
    halved = {point.experiment for found in grids.values() for point in found}
    if alone := [name for name in study.halving.of or [] if name not in halved]:
        raise UserError(f"{KEY}.of: {alone[0]} has one point, of which none can be stopped; give it a grid of several")
    if not grids:
        raise UserError(f"{KEY}: there is no grid with several points to stop some of; leave it out, or add a grid")
    methods = {point.method for found in grids.values() for point in found}
    for key, named in (("baseline", [study.baseline]), ("comparisons", study.comparisons)):
        if risked := [name for name in named if name in methods]:
            raise UserError(
                f"study.{key}: {risked[0]} is a point of a halved grid, which may be stopped before it is measured; "
                f"take its experiment out of {KEY}.of, or name another method"
            )
    return grids


def check_halving(study: StudyConfig, points: Mapping[str, Point], experiments: Mapping[str, Any]) -> None:
    """Check that a study's grids can be halved: that they are some, and that their runs are validated on equal terms.

    Args:
        study: its settings.
        points: all runs by name.
        experiments: their sections, by the same names.

    Raises:
        UserError: see `halved_grids`; or a run has no validation rows, or points are not validated alike.
    """
    for name, found in halved_grids(study, points).items():
        runs = {point.name: experiments[point.name] for point in found}
        for run, e in runs.items():
            without = "data.split.validation" if not e.data.split.validation else "train.validation_rows"
            if not (e.data.split.validation and e.train.validation_rows):
                raise UserError(f"{KEY} stops points by their validation NLL, and {without} of {run} is 0; raise it")
        alike = {run: (e.data, e.model.attention, e.train.validation_rows) for run, e in runs.items()}
        first, *others = alike
        if other := next((run for run in others if alike[run] != alike[first]), None):
            raise UserError(
                f"{KEY}: {first} and {other} of the grid {name} differ in data, model.attention or "
                "train.validation_rows, so that their NLLs are not of the same tokens; leave that out of the grid, or "
                f"the experiment out of {KEY}.of"
            )
