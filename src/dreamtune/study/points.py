"""What a run is within its study: of which experiment, at which point of a grid, with which seed, on how many rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dreamtune.settings.study import StudyConfig
from dreamtune.study.names import run_name


@dataclass(frozen=True)
class Point:
    """One run of a study: an experiment of the configuration after grid, seeds and data sizes are multiplied out.

    An experiment that stands in the configuration by itself is a point without coordinates.

    >>> point = Point("qlora", {"train.lora.rank": 16}, data_size=250, seed=2, first_seed=0)
    >>> point.name, point.method, point.curve
    ('qlora-rank16-rows250-seed2', 'qlora-rank16-rows250', 'qlora-rank16')

    Attributes:
        experiment: name in the configuration.
        coordinates: the grid's settings, by dotted name; {} outside of a grid.
        data_size: training rows by the study's `data_sizes`; None for all that the experiment trains on.
        seed: the run's `train.seed`.
        first_seed: `train.seed` of the first replicate, whose name has no seed.
    """

    experiment: str
    coordinates: dict[str, Any] = field(default_factory=dict)
    data_size: int | None = None
    seed: int = 0
    first_seed: int = 0

    @property
    def name(self) -> str:
        """Name of the run: of its report, its folder in results/latest, and the key in `Config.experiments`."""
        return self._named(self.data_size, None if self.seed == self.first_seed else self.seed)

    @property
    def method(self) -> str:
        """Name without the seed: runs with one method are replicates, which differ in their seed alone."""
        return self._named(self.data_size, None)

    @property
    def curve(self) -> str:
        """Name without seed and data size: the methods of one learning curve over data sizes."""
        return self._named(None, None)

    def _named(self, rows: int | None, seed: int | None) -> str:
        return run_name(self.experiment, self.coordinates, rows, seed)

    def as_json(self) -> dict[str, Any]:
        """Return the point as plain JSON values, from which `Point(**values)` makes it again."""
        return asdict(self)


def by_method(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Return the points of each method, its replicates, in the order in which they come.

    >>> {method: len(found) for method, found in by_method([Point("a"), Point("a", seed=1), Point("b")]).items()}
    {'a': 2, 'b': 1}
    """
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.method, []).append(point)
    return found


def by_curve(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Return the points of each learning curve: methods that differ in their data size alone, with all their seeds."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.curve, []).append(point)
    return found


def by_grid(points: Iterable[Point]) -> dict[tuple[str, tuple[str, ...]], list[Point]]:
    """Return the points of each grid, by experiment and names of its settings; points outside of grids are left out."""
    found: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for point in points:
        if point.coordinates:
            found.setdefault((point.experiment, tuple(point.coordinates)), []).append(point)
    return found


def named_methods(study: StudyConfig, members: Sequence[Point]) -> list[str]:
    """Return the methods of the family: those that `study.comparisons` names, else all outside of grids and data sizes.

    >>> members = [Point("full"), Point("qlora", {"train.lora.rank": 4}), Point("qlora", {"train.lora.rank": 8})]
    >>> named_methods(StudyConfig(), members), named_methods(StudyConfig(comparisons=["qlora-rank4"]), members)
    (['full'], ['qlora-rank4'])
    """
    if study.comparisons:
        return study.comparisons
    return [
        name for name, found in by_method(members).items() if not found[0].coordinates and found[0].data_size is None
    ]
