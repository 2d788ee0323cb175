"""The base of every section: strict types, no unknown keys, each field marked *result* or *runtime*.

A *result* field can change what a stage writes, so it is part of the stage's version. A *runtime* field
(threads, logging, checkpoint interval, paths) cannot, so it is frozen beside the version but never hashed.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _scientific(value: Any) -> Any:
    """YAML 1.1 reads `2e-5` as text; to everybody else it is a number."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


Float = Annotated[float, BeforeValidator(_scientific)]
# A job may have another home than the user who plans it: in a container it is the work folder.
UserPath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()) if path.startswith("~") else path)]


class Section(BaseModel):
    """A frozen, strict section of the configuration."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def by_kind(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (result fields, runtime fields) as plain JSON values."""
        values = self.model_dump(mode="json")
        kinds = {name: _kind(field.json_schema_extra) for name, field in type(self).model_fields.items()}
        return (
            {k: v for k, v in values.items() if kinds[k] == "result"},
            {k: v for k, v in values.items() if kinds[k] == "runtime"},
        )


def _kind(extra: Any) -> str:
    return extra["kind"]


def result(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes what the stage writes (hashed into its version)."""
    return _field("result", default, description, limits)


def runtime(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes only how the stage runs (never hashed)."""
    return _field("runtime", default, description, limits)


def _field(kind: str, default: Any, description: str, limits: dict[str, Any]) -> Any:
    extra: JsonDict = {"kind": kind}
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **limits)
    return Field(default, description=description, json_schema_extra=extra, **limits)
