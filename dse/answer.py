"""What a question is answered with: a design, its distance to each limit and what that is worth, or what binds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import TextWrapper
from typing import Any, Literal

from dse.objective import violation
from dse.study import Constraint
from dse.uncertainty import INTERVALS
from dse.validation import ErrorBasis, ErrorRange

WIDTH_COLUMNS = 100
"""Of an answer in words."""


@dataclass(frozen=True)
class Binding:
    """The constraint that stands in the way.

    Attributes:
        constraint: Which one.
        best: The best value reached.
        number: Trial that reaches it.
        alone: Whether it fails even with all other constraints dropped.
    """

    constraint: Constraint
    best: float
    number: int
    alone: bool

    def __str__(self) -> str:
        gap = abs(self.best - self.constraint.limit)
        share = 100 * violation(self.constraint, self.best)
        scope = "of any design" if self.alone else "of the designs that keep the other limits"
        return (
            f"{self.constraint} binds: the best {scope} is {self.best:.6g} (trial {self.number}), "
            f"{gap:.4g} ({share:.3g}%) off"
        )


@dataclass(frozen=True)
class Margin:
    """How far a design is on the right side of a limit, and what that is worth.

    Attributes:
        constraint: The limit.
        value: What the design has, in the metric's own unit.
        errors: What validation says of the simulator's error in this metric.
        interval: Sampling interval of a measured quality; None for what has none.
    """

    constraint: Constraint
    value: float
    errors: tuple[ErrorBasis, ...]
    interval: tuple[float, float] | None

    @property
    def amount(self) -> float:
        """Distance to the limit, in the metric's own unit."""
        return abs(self.value - self.constraint.limit)

    @property
    def share(self) -> float:
        """Distance as a share of the limit."""
        return max(0.0, -violation(self.constraint, self.value))

    @property
    def doubt(self) -> str | None:
        """Why the limit may not be kept in truth; None where nothing says so.

        Of the simulator's errors, only those in the direction that would break the limit are asked.
        """
        if self.interval is not None:
            low, high = self.interval
            return f"within its interval {low:.4g}..{high:.4g}" if self._broken_by(low, high) else None
        errors = ErrorRange.judging(self.errors)
        if errors is None:
            return None
        low, high = errors.true_low(self.value), errors.true_high(self.value)
        if not self._broken_by(low, high):
            return None
        end, error = (low, errors.largest) if self.constraint.op == ">=" else (high, errors.smallest)
        return f"in truth {in_words(self.constraint.name, end, 4)} if it is {errors.describe(error)}"

    def _broken_by(self, low: float, high: float) -> bool:
        """Whether a true value between two ends may be beyond the limit."""
        limit = self.constraint.limit
        return low < limit if self.constraint.op == ">=" else high > limit

    def __str__(self) -> str:
        name, own = self.constraint.name, self.constraint.unit is None
        limit = f"{name} {self.constraint.op} {in_words(name, self.constraint.bound)}" if own else str(self.constraint)
        doubt = f"; {self.doubt}" if self.doubt else ""
        return f"{limit} by {in_words(name, self.amount, 4)} ({self.share:.2%}){doubt}"


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        target: What was optimised.
        direction: Which way.
        design: The best design's row; None if no evaluated design keeps the limits.
        margins: Distance to each limit.
        binding: Without a design, the constraint to relax.
        asked: Designs looked at.
        exact: Whether no design of the space can be better.
        front_is_exact: Whether the exploration proved its front, though perhaps not this answer.
        space_size: Designs in the space; None where a parameter is continuous.
        errors: What validation says of the simulator's error, by metric of the question; empty for a metric
            that nothing was compared with. Chosen values and quality are not simulated and not listed.
    """

    target: str
    direction: Literal["minimize", "maximize"]
    design: dict[str, Any] | None
    margins: tuple[Margin, ...]
    binding: Binding | None
    asked: int
    exact: bool
    front_is_exact: bool
    space_size: int | None
    errors: dict[str, tuple[ErrorBasis, ...]]

    @property
    def certainty(self) -> str:
        """How sure it is that nothing better exists."""
        space = "a continuous space" if self.space_size is None else f"a space of {self.space_size}"
        if self.exact:
            return f"exact: no design of {space} is better"
        best = f"best of {self.asked} designs simulated of {space}, not proved best"
        # Designs that the front beats were left out, and may be better in what it was not drawn for.
        return f"{best}: objectives and limits of the study must be those of the question" * self.front_is_exact or best

    @property
    def quality(self) -> str | None:
        """Where the design's quality comes from; None where the study has none."""
        return None if self.design is None else _quality_label(self.design)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        """The answer itself, then lines of what it rests on, of at most :data:`WIDTH_COLUMNS` characters."""
        if self.design is None:
            yield f"no design of {self.asked} keeps all limits"
            yield from _listed("", [str(self.binding)])
            if not self.exact:
                yield from _listed("", ["designs that were not simulated may keep them"])
            return
        value = in_words(self.target, self.design[self.target])
        head = f"{self.target} = {value}: trial {self.design['number']}, {_describe(self.design)}"
        yield from _wrapped(head, "", "    ")
        yield from _listed("keeps", list(map(str, self.margins)))
        if self.quality is not None:
            yield from _listed("quality", [self.quality.removeprefix("quality ")])
        unknown = [name for name, bases in self.errors.items() if not bases]
        off = [f"{name} was off by {text}" for name, bases in self.errors.items() for text in _errors(bases)]
        yield from _listed("simulator", [*off, *([f"{', '.join(unknown)} not validated"] if unknown else [])])
        yield from _listed("certainty", [self.certainty])


def _listed(title: str, items: list[str]) -> Iterator[str]:
    """Indented lines under a title that stands before the first."""
    for index, item in enumerate(items):
        indent = f"  {'' if index else title:<11}" if title else "  "
        yield from _wrapped(item, indent, " " * (len(indent) + 2))


def _wrapped(text: str, first: str, rest: str) -> Iterator[str]:
    """Lines that break neither around an equals sign nor before a unit."""
    together = re.sub(r" (?==|GB/s)|(?<= =) ", "\N{NO-BREAK SPACE}", text)
    wrapper = TextWrapper(WIDTH_COLUMNS, first, rest, break_long_words=False, break_on_hyphens=False)
    for line in wrapper.wrap(together):
        yield line.replace("\N{NO-BREAK SPACE}", " ")


def _errors(bases: tuple[ErrorBasis, ...]) -> Iterator[str]:
    """What validation says of a metric: the bases that judge, and the first of another kind beside them."""
    errors = ErrorRange.judging(bases)
    if errors is not None:
        yield from map(str, errors.bases)
        yield from (str(basis) for basis in [one for one in bases if one not in errors.bases][:1])


def _quality_label(row: Mapping[str, Any]) -> str | None:
    """Whether the quality was measured, quoted or interpolated, on what, and its interval."""
    if is_missing(row.get("quality_source")):
        return None
    interpolated = row.get("quality_interpolated") is True
    parts = [
        f"quality {'interpolated' if interpolated else row['quality_source']}",
        f"{row['quality_metric']} of {row['quality_model']}",
    ]
    if not is_missing(row.get("quality_n")):
        parts.append(f"n = {row['quality_n']:.0f}")
    if interpolated and not is_missing(row.get("quality_interpolation_error")):
        parts.append(f"interpolation off by up to {row['quality_interpolation_error']:.3g} where that can be checked")
    if not is_missing(row.get("quality_citation")):
        parts.append(str(row["quality_citation"]))
    name = "relative_quality" if not is_missing(row.get("relative_quality")) else "quality"
    interval = interval_of(row, name)
    parts.append("no interval" if interval is None else f"{name} {interval[0]:.4g}..{interval[1]:.4g}")
    return ", ".join(parts)


def _describe(row: Mapping[str, Any]) -> str:
    """A design in words: what was chosen, not what came out."""
    chosen = [f"schedule {row['schedule']}"] if isinstance(row["schedule"], str) else []
    fields = [f"{name} = {in_words(name, value)}" for name, value in row["parameters"].items()]
    return ", ".join([*chosen, *fields]) or "the NPU as given"


def in_words(name: str, value: Any, digits: int = 6) -> str:
    """A value as people read it: bandwidths in GB/s, everything else in its own unit, which its name tells.

    >>> in_words("bandwidth_bytes_per_s", 55.7152e9), in_words("matrix.macs", 4096), in_words("ttft_s", 0.12345, 3)
    ('55.7152 GB/s', '4096', '0.123')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes_per_s"):
        return f"{value / 1e9:.{digits}g} GB/s"
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def interval_of(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Sampling interval of a metric of a row; None where it has none."""
    ends = [row.get(column) for column in INTERVALS.get(name, ())]
    known = [float(end) for end in ends if end is not None and not is_missing(end)]
    return (known[0], known[1]) if len(known) == 2 else None
