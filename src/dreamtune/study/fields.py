"""Names of settings, for messages about a wrong one: which are known where it stands, and which is nearest."""

import difflib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel


def keys_beside(model: Any, location: Sequence[int | str]) -> list[str]:
    """Return the names of all fields of the section in which the key at `location` stands.

    Args:
        model: the section type in which the location begins.
        location: keys and places in lists, from the outermost to the key itself.
    """
    for key in location[:-1]:
        if isinstance(key, str) and key in model.model_fields:
            model = section_in(model.model_fields[key].annotation) or model
    return list(model.model_fields)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section type within an annotation such as `list[Benchmark]` or `Sampling | None`; None without one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in typing.get_args(annotation) if (found := section_in(inner))), None)


def unknown_part(model: type[BaseModel], dotted: str) -> tuple[str, list[str]] | None:
    """Return the first part of a dotted name that names no field, and the fields known there; None if all do.

    >>> from dreamtune.settings.train import TrainConfig
    >>> unknown_part(TrainConfig, "lora.rnk")[0], unknown_part(TrainConfig, "lora.rank")
    ('rnk', None)
    """
    kind: type[BaseModel] | None = model
    for part in dotted.split("."):
        known = list(kind.model_fields) if kind else []
        if part not in known:
            return part, known
        assert kind is not None
        kind = section_in(kind.model_fields[part].annotation)
    return None


def hint(wrong: str, known: Iterable[str]) -> str:
    """Return what to write in place of a wrong name: the most similar known one, or a list of all.

    >>> hint("trian", ["train", "data"]), hint("x", ["train", "data"])
    ("did you mean 'train'?", 'known are: train, data')
    """
    names = list(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
