"""A learning rate in the configuration: a number, or `find`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from dreamtune.settings.base import scientific

FIND = "find"  # in place of a learning rate: smoke finds it
NumericRate = Annotated[float, Field(gt=0.0, le=10.0), BeforeValidator(scientific)]  # bounds refuse inf and nan
NUMERIC_RATE: TypeAdapter[float] = TypeAdapter(NumericRate)


def _rate(value: Any) -> Any:
    """Return a learning rate as a number, or `find`; checked here, so that an error names the setting alone."""
    if value == FIND:
        return value
    try:
        return NUMERIC_RATE.validate_python(value, strict=True)
    except ValidationError as error:
        text = isinstance(value, str)
        raise ValueError("input should be a valid number, or find" if text else error.errors()[0]["msg"]) from None


Rate = Annotated[NumericRate | Literal["find"], BeforeValidator(_rate)]
