"""From the experiments of a configuration to a study's runs: grids, data sizes and seeds multiplied out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreamtune.errors import UserError
from dreamtune.settings.base import NAME, Section
from dreamtune.settings.study import DataSizes, Replicates, StudyConfig
from dreamtune.study.fields import hint
from dreamtune.study.grid import Grid, as_changes, chosen, read_grids
from dreamtune.study.points import Point

GRID, SEEDS, SIZES, STUDY = "grid", "seeds", "data_sizes", "study"
KEYS = (GRID, SEEDS, SIZES, STUDY)
SIZED = ("train.rows", "train.rows_by", "train.epochs_of")  # what a data size sets
S = TypeVar("S", bound=Section)


class TooManyRuns(UserError):
    """A study has more runs than `study.max_points`; `runs` has their number by experiment."""

    def __init__(self, message: str, runs: dict[str, int]) -> None:
        super().__init__(message)
        self.runs = runs


@dataclass(frozen=True)
class Study:
    """The keys of a configuration that make runs of its experiments."""

    settings: StudyConfig
    grids: list[Grid]
    seeds: Replicates
    sizes: DataSizes | None
    seeded: tuple[str, ...]
    sized: tuple[str, ...]

    def runs_of(self, experiment: str) -> int:
        """Return how many runs become of one experiment."""
        points = sum(len(grid) for grid in self.grids if experiment in grid.of) or 1
        sizes = len(self.sizes.rows) if self.sizes and experiment in self.sized else 1
        return points * sizes * (self.seeds.count if experiment in self.seeded else 1)


def read_study(raw: Mapping[str, Any], experiments: Mapping[str, Any], kind: type[BaseModel]) -> Study:
    """Return the keys of a configuration that make a study, checked.

    Args:
        raw: the whole configuration.
        experiments: its experiments by name.
        kind: the type of an experiment, with all its sections.

    Raises:
        UserError: one of the keys is wrong; see `grid.read_grids`.
        TooManyRuns: there are more runs than `study.max_points`.
    """
    seeds = _section(SEEDS, raw.get(SEEDS), "count", Replicates) or Replicates()
    sizes = _section(SIZES, raw.get(SIZES), "rows", DataSizes)
    study = Study(
        settings=_section(STUDY, raw.get(STUDY), None, StudyConfig) or StudyConfig(),
        grids=read_grids(raw.get(GRID), experiments, kind),
        seeds=seeds,
        sizes=sizes,
        seeded=chosen(seeds.of, experiments, SEEDS),
        sized=chosen(sizes.of, experiments, SIZES) if sizes else (),
    )
    runs = {name: study.runs_of(name) for name in experiments}
    multiplied = any(raw.get(key) is not None for key in (GRID, SEEDS, SIZES))
    if multiplied and sum(runs.values()) > study.settings.max_points:
        raise TooManyRuns(
            f"the study has {sum(runs.values()):,} runs, more than study.max_points ({study.settings.max_points:,})",
            runs,
        )
    return study


def runs_of(study: Study, experiment: str, defaults: Mapping[str, Any]) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Yield the runs of one experiment, each with the changes it makes to the experiment's sections.

    Args:
        study: from `read_study`.
        experiment: its name.
        defaults: the experiment's sections as they are written, for its own `train.seed`.

    Raises:
        UserError: data sizes meet settings of the experiment that they would overwrite.
    """
    train = defaults.get("train") or {}
    grids = [grid for grid in study.grids if experiment in grid.of]
    own = train.get("seed", 0) if isinstance(train, dict) else 0
    first = own if isinstance(own, int) else 0  # what is no seed is refused with the experiment's sections
    sizes: list[int | str] = list(study.sizes.rows) if study.sizes and experiment in study.sized else ["all"]
    if sizes != ["all"]:
        _check_sizes(experiment, defaults, grids)
    count = study.seeds.count if experiment in study.seeded else 1
    for coordinates in [point for grid in grids for point in grid.points()] or [{}]:
        for rows in sizes:
            point = Point(experiment, coordinates, rows if isinstance(rows, int) else None, first, first)
            changes = coordinates | (_size(rows, study) if isinstance(rows, int) else {})
            yield point, as_changes(changes)
            for number in range(1, count):  # the first replicate has the experiment's own seed
                seed = first + number
                yield replace(point, seed=seed), as_changes(changes | {"train.seed": seed})


def add_run(points: dict[str, Point], point: Point) -> None:
    """Add a run by its name.

    Raises:
        UserError: there is one with that name, or the name is too long.
    """
    name = point.name
    if name in points:
        raise UserError(
            f"two runs are named {name}: {_said(points[name])}, and {_said(point)}; list each value once, or give the "
            "experiment another name"
        )
    if len(name.encode()) > NAME:
        raise UserError(f"the run {name[:20]}… has a name of {len(name.encode())} bytes, at most {NAME} are allowed")
    points[name] = point


def check_methods(study: Study, points: Mapping[str, Point]) -> None:
    """Check that the study's baseline and comparisons are methods of it.

    Raises:
        UserError: one is not, or the equivalence of something else than accuracy is asked for.
    """
    settings, methods = study.settings, dict.fromkeys(point.method for point in points.values())
    named = [
        (f"{STUDY}.baseline", settings.baseline),
        *((f"{STUDY}.comparisons", name) for name in settings.comparisons),
    ]
    for key, name in named:
        if name is None or name in methods:
            continue
        if of := [method for method in methods if method.startswith(f"{name}-")]:
            raise UserError(f"{key}: {name!r} is several methods; name one of them, such as {of[0]}")
        raise UserError(f"{key}: there is no method {name!r}; {hint(name, methods)}")
    if settings.primary == "nll" and settings.equivalence_points is not None:
        raise UserError(f"{STUDY}.equivalence_points: points are of accuracy, and study.primary is nll; leave one out")


def _size(rows: int, study: Study) -> dict[str, Any]:
    assert study.sizes is not None
    return dict(zip(SIZED, (rows, "draw", "all" if study.sizes.equal == "steps" else "rows"), strict=True))


def _check_sizes(experiment: str, defaults: Mapping[str, Any], grids: list[Grid]) -> None:
    sections = {name: defaults.get(name) for name in ("train", "full")}
    given = [f"{name}.rows" for name, own in sections.items() if isinstance(own, dict) and own.get("rows") is not None]
    fields = [field for grid in grids for point in grid.points() for field in point]
    given += [field for field in fields if field in (*SIZED, "full.rows")]
    if given:
        raise UserError(
            f"experiments.{experiment}: data_sizes says on how many rows it trains, and so does {given[0]}; give one "
            "of them, or leave the experiment out by data_sizes.of"
        )


def _said(point: Point) -> str:
    values = ", ".join(f"{field} {value}" for field, value in point.coordinates.items())
    return f"experiment {point.experiment}{f' with {values}' if values else ''}"


def _section(key: str, raw: Any, short: str | None, kind: type[S]) -> S | None:
    """Return a key of the configuration as a section; what is no mapping is the value of its field `short`.

    Raises:
        UserError: a ValueError; its one line names the key.
    """
    if raw is None:
        return None
    if isinstance(raw, dict):
        values = raw
    elif short:
        values = {short: raw}
    else:
        raise UserError(f"{key}: expected a mapping, not {raw!r}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join([key, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            raise UserError(f"{name}: there is no such key; {hint(str(first['loc'][-1]), kind.model_fields)}") from None
        problem = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{name}: {problem[:1].lower()}{problem[1:]}; given was {first['input']!r}") from None
