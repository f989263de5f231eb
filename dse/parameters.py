"""Parameters of a study: which values a field of the NPU file may take, and when it is decided at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, FiniteFloat, JsonValue, model_validator

from hwsim.trace import Record

SIGNIFICANT_DIGITS = 6
"""Of a point between the ends of a logarithmic range: what a table can print and a user can type again."""


def number(value: object) -> object:
    """YAML 1.1 reads ``16e9`` as text; here it is the number it looks like."""
    if isinstance(value, str):
        try:
            found = float(value)
        except ValueError:
            return value
        if math.isfinite(found):
            return int(found) if found.is_integer() else found
    return value


def as_tuple(value: object) -> object:
    """One value where several may stand."""
    return value if isinstance(value, list | tuple) else (value,)


def _plain(value: object) -> object:
    """A choice as JSON would hold it; YAML also reads numbers as keys, such as the widths of a table of rates."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return number(value)


def _numbers(value: object) -> object:
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def _comparable(value: object) -> object:
    """Equal numbers alike, whether integer or not: 4 and 4.0 are one design."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Choices = Annotated[tuple[JsonValue, ...], BeforeValidator(_numbers)]
Values = Annotated[tuple[JsonValue, ...], BeforeValidator(_numbers), BeforeValidator(as_tuple)]


class Parameter(Record):
    """The values one NPU field may take."""

    type: Literal["int", "float", "log", "categorical"] = Field(
        description="log is float on a logarithmic scale; numeric choices of a categorical keep their order."
    )
    low: FiniteFloat | None = Field(None, description="Smallest value.")
    high: FiniteFloat | None = Field(None, description="Largest value, included.")
    step: FiniteFloat | None = Field(None, gt=0, description="Distance of neighbouring values.")
    points: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Number of values from low to high, evenly spaced on the parameter's scale (rounded to six digits, "
        "to integers for int; fewer where some are equal then), so that a logarithmic range can be enumerated.",
    )
    log: bool = Field(False, description="Sample on a logarithmic scale.")
    choices: Choices | None = Field(
        None, description="The values of a categorical parameter: numbers, names, whole lists or groups of fields."
    )
    when: dict[str, Values] | None = Field(
        None,
        description="Active only where each parameter named here (listed above this one, or a part of the "
        "schedule) has one of these values; inactive, the NPU file's value stands.",
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.type == "categorical":
            if not self.choices:
                raise ValueError("a categorical parameter needs choices")
            if len({repr(_comparable(choice)) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"choices = {list(self.choices)}: must differ")
            if (self.low, self.high, self.step, self.points, self.log) != (None, None, None, None, False):
                raise ValueError("a categorical parameter takes choices, not low, high, step, points or log")
            return self
        if self.choices is not None:
            raise ValueError(f"choices belong to type categorical, not {self.type}")
        if self.low is None or self.high is None:
            raise ValueError(f"type {self.type} needs low and high")
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} exceeds high = {self.high:g}: swap the bounds")
        if self.step is not None and self.points is not None:
            raise ValueError("step and points both say how many values there are: give one")
        if self.points is not None and self.low == self.high:
            raise ValueError(f"points = {self.points}: low and high are both {self.low:g}; leave points out")
        if self.logarithmic:
            if self.low <= 0:
                raise ValueError(f"low = {self.low:g}: must be > 0 on a logarithmic scale")
            if self.step is not None:
                raise ValueError("step and a logarithmic scale exclude each other; give points, the number of values")
        if self.type == "int":
            for name in ("low", "high", "step"):
                value = getattr(self, name)
                if value is not None and not float(value).is_integer():
                    raise ValueError(f"{name} = {value:g}: must be an integer for type int")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
                raise ValueError(f"high = {self.high:g}: must be low + a whole number of steps of {self.step:g}")
        return self

    @property
    def logarithmic(self) -> bool:
        """Whether sampling is logarithmic."""
        return self.log or self.type == "log"

    @property
    def numeric(self) -> bool:
        """Whether every value is a number, so that a limit or an objective makes sense."""
        return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices or ())

    def grid(self) -> tuple[float, ...] | None:
        """The values of a range with a step or a number of points, rising; None for a continuum.

        >>> Parameter(type="log", low=1, high=1000, points=4).grid()
        (1.0, 10.0, 100.0, 1000.0)
        >>> Parameter(type="int", low=64, high=256, step=96).grid()
        (64, 160, 256)
        """
        if self.low is None or self.high is None or (self.step, self.points) == (None, None):
            return None
        if self.step is not None:
            count = round((self.high - self.low) / self.step)
            values = [self.low + index * self.step for index in range(count + 1)]
        else:
            values = self._points(self.low, self.high, self.points or 2)
        return tuple(sorted({round(value) for value in values})) if self.type == "int" else tuple(values)

    def _points(self, low: float, high: float, count: int) -> list[float]:
        shares = [index / (count - 1) for index in range(1, count - 1)]
        if self.logarithmic:
            between = [low ** (1 - share) * high**share for share in shares]
        else:
            between = [low + share * (high - low) for share in shares]
        rounded = {float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in between}
        # Where points lie closer than their digits tell, some are equal: each value once, or a design would be several.
        return [low, *sorted(value for value in rounded if low < value < high), high]

    def bounds(self) -> tuple[float, float]:
        """Least and largest value of a numeric parameter."""
        values = [float(choice) for choice in self.choices or () if isinstance(choice, int | float)]
        return (min(values), max(values)) if values else (self.low or 0.0, self.high or 0.0)
