"""The base class of every section: strict types, no unknown keys, each field marked *result* or *runtime*.

A *result* field can change what a stage writes, so it is hashed into the stage's version. A *runtime* field (threads,
logging, checkpoint interval, paths) cannot: it is recorded in the version's config.json and never hashed. Some decide
in which order floating-point numbers are added, or which dropout noise a document gets: their description ends in
`ROUNDS`, and all others change no byte of a result on a CPU (tests/test_runtime_settings.py changes each).
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

# Bounds of numbers, so that a slip of the keyboard is refused while planning and not after hours of a job.
SEED = {"ge": 0, "le": 2**32 - 1}  # what every generator of random numbers takes
MANY = 10**9  # rows, steps, tokens of a run
LONG = 2**20  # tokens of one sequence
PARTS = 10_000  # jobs that make one version
NAME = 64  # characters of a name that becomes part of a file's name
ROUNDS = "; may change the last digits of a result, and what dropout blanks, never what is computed"
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def scientific(value: Any) -> Any:
    """Return the number that a text such as `2e-5` writes: YAML 1.1 reads it as text, not as a number."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


Float = Annotated[float, BeforeValidator(scientific), Field(allow_inf_nan=False)]
# `~` is resolved while planning: in a container a job's home folder is the work folder, not the user's.
UserPath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()) if path.startswith("~") else path)]


class Section(BaseModel):
    """Base class of a section of the configuration: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def by_kind(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return two mappings of field names to plain JSON values: the result fields, then the runtime fields."""
        values = self.model_dump(mode="json")
        kinds = {name: _kind(field.json_schema_extra) for name, field in type(self).model_fields.items()}
        return (
            {k: v for k, v in values.items() if kinds[k] == "result"},
            {k: v for k, v in values.items() if kinds[k] == "runtime"},
        )


def _kind(extra: Any) -> str:
    return extra["kind"]


def result(default: Any, description: str, **limits: Any) -> Any:
    """Declare a field that can change what the stage writes: it is hashed into the stage's version."""
    return _field("result", default, description, limits)


def runtime(default: Any, description: str, *, rounds: bool = False, **limits: Any) -> Any:
    """Declare a field that changes only how the stage runs: it is never hashed.

    Args:
        rounds: whether it may change last digits, which the description then says.
    """
    return _field("runtime", default, description + (ROUNDS if rounds else ""), limits)


def _field(kind: str, default: Any, description: str, limits: dict[str, Any]) -> Any:
    extra: JsonDict = {"kind": kind}
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **limits)
    return Field(default, description=description, json_schema_extra=extra, **limits)
