"""What a question is answered with: a design, its distance to each limit and what that is worth, or what binds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dse.objective import violation
from dse.study import Constraint
from dse.uncertainty import INTERVALS
from dse.validation import ErrorBasis, ErrorRange
from dse.words import in_pairs, in_words, listed, wrapped


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
        """The answer itself, then lines of what it rests on, of at most :data:`dse.words.WIDTH_COLUMNS` characters."""
        if self.design is None:
            yield f"no design of {self.asked} keeps all limits"
            yield from listed("", [str(self.binding)])
            if not self.exact:
                yield from listed("", ["designs that were not simulated may keep them"])
            return
        value = in_words(self.target, self.design[self.target])
        head = f"{self.target} = {value}: trial {self.design['number']}, {_describe(self.design)}"
        yield from wrapped(head)
        yield from listed("keeps", list(map(str, self.margins)))
        if self.quality is not None:
            yield from listed("quality", [self.quality.removeprefix("quality ")])
        unknown = [name for name, bases in self.errors.items() if not bases]
        off = [f"{name} was off by {text}" for name, bases in self.errors.items() for text in _errors(bases)]
        yield from listed("simulator", [*off, *([f"{', '.join(unknown)} not validated"] if unknown else [])])
        yield from listed("certainty", [self.certainty])


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
    return ", ".join([*chosen, *in_pairs(row["parameters"])]) or "the NPU as given"


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def interval_of(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Sampling interval of a metric of a row; None where it has none."""
    ends = [row.get(column) for column in INTERVALS.get(name, ())]
    known = [float(end) for end in ends if end is not None and not is_missing(end)]
    return (known[0], known[1]) if len(known) == 2 else None
