"""A grid of the configuration: settings by dotted name with a list of values each, and the points of their product.

grid:
  of: [qlora]
  train.lora.rank: [4, 16, 64]
  train.learning_rate: [1e-5, 1e-4]
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from pydantic import BaseModel

from dreamtune.errors import UserError
from dreamtune.settings.base import scientific
from dreamtune.study.fields import hint, unknown_part

OF = "of"
EXAMPLE = "for example `grid: {of: [qlora], train.lora.rank: [4, 16]}`"


@dataclass(frozen=True)
class Grid:
    """The product of several settings' values, for the experiments `of`.

    Attributes:
        of: names of experiments.
        values: the values of each setting, by its dotted name.
    """

    of: tuple[str, ...]
    values: dict[str, list[Any]]

    def __len__(self) -> int:
        """Return the number of points of each experiment."""
        return prod(len(values) for values in self.values.values())

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield the coordinates of each point, values by dotted name; a mapping as value sets several settings.

        >>> list(Grid(("a",), {"train.lora": [{"rank": 4, "alpha": 8}], "train.epochs": [1]}).points())
        [{'train.lora.rank': 4, 'train.lora.alpha': 8, 'train.epochs': 1}]
        """
        for chosen in product(*self.values.values()):
            yield {
                name: value
                for field, given in zip(self.values, chosen, strict=True)
                for name, value in leaves(field, given)
            }


def leaves(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and values of all settings within a value, which is a mapping where it sets several."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(f"{field}.{name}", inner)
    else:
        yield field, scientific(value)


def as_changes(coordinates: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name as nested sections.

    >>> as_changes({"train.lora.rank": 4, "train.epochs": 1})
    {'train': {'lora': {'rank': 4}, 'epochs': 1}}
    """
    changes: dict[str, Any] = {}
    for field, value in coordinates.items():
        *sections, name = field.split(".")
        inner = changes
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return changes


def read_grids(raw: Any, experiments: Mapping[str, Any], kind: type[BaseModel]) -> list[Grid]:
    """Return the grids of a configuration: none, one, or a list of them.

    Args:
        raw: the key `grid`; None without one.
        experiments: the configuration's, by name.
        kind: the type of an experiment, with all its sections.

    Raises:
        UserError: no setting or no value, an unknown setting or experiment, or a setting that `seeds` repeats.
    """
    if raw is None:
        return []
    if raw == []:
        raise UserError(f"grid: the list is empty, so there are no points; {EXAMPLE}, or leave it out")
    return [_grid(one, experiments, kind) for one in (raw if isinstance(raw, list) else [raw])]


def _grid(raw: Any, experiments: Mapping[str, Any], kind: type[BaseModel]) -> Grid:
    if not isinstance(raw, dict):
        raise UserError(f"grid: expected a mapping of settings to lists of values, not {raw!r}; {EXAMPLE}")
    values = {field: given for field, given in raw.items() if field != OF}
    if not values:
        raise UserError(f"grid: it names no setting, so it has no points; {EXAMPLE}, or leave it out")
    for field, given in values.items():
        if not isinstance(given, list) or not given:
            raise UserError(f"grid.{field}: expected a list with at least one value, not {given!r}; {EXAMPLE}")
        for dotted in dict.fromkeys(name for value in given for name, _ in leaves(str(field), value)):
            if wrong := unknown_part(kind, dotted):
                raise UserError(f"grid: there is no setting {dotted!r}; {hint(*wrong)}")
            if dotted == "train.seed":
                raise UserError("grid: points that differ in train.seed are replicates of one; set seeds: 3, say")
    return Grid(chosen(raw.get(OF), experiments, "grid"), values)


def chosen(of: Any, experiments: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the names of the experiments that `of` lists; all if it is None.

    Raises:
        UserError: it is no list of names, or empty, or names an experiment that there is not.
    """
    if of is None:
        return tuple(experiments)
    if not isinstance(of, list) or not of:
        raise UserError(f"{key}.of: expected a list of experiments, such as [{next(iter(experiments))}], not {of!r}")
    for name in of:
        if name not in experiments:
            raise UserError(f"{key}.of: there is no experiment {name!r}; {hint(str(name), map(str, experiments))}")
    return tuple(of)
