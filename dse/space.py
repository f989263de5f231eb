"""The joint space of NPU parameters and schedules, as conditional Optuna parameters.

A design's canonical form leaves out what does not act (a parameter whose condition fails), so equal
designs have equal keys. The schedule is taken apart into prefill bits, first and last decode bits,
number of switches, their steps and the bits between; each is offered only with the values that still
lead to a listed schedule. A sampler sees that structure, and can reach every listed schedule and no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dse.study import Parameter
from hwsim.trace import InputError, Schedule, canonical_sha256, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

SCHEDULE_PREFIX = "schedule."


@dataclass(frozen=True)
class Design:
    """One point: NPU fields that differ from the file, and the schedule (None: the trace's own)."""

    npu: Mapping[str, Any]
    schedule: Schedule | None

    def canonical(self) -> dict[str, Any]:
        """JSON form with sorted keys; equal for equal designs."""
        label = None if self.schedule is None else self.schedule.label()
        return {**dict(sorted(self.npu.items())), "schedule": label}

    @cached_property
    def key(self) -> str:
        """Hash of the canonical form."""
        return canonical_sha256(self.canonical())


@dataclass(frozen=True)
class Axis:
    """One decision of a walk through the space.

    Attributes:
        name: Which value is decided.
        label: Optuna's name; decisions with other choices need another name there.
        values: Choices, in order of size where they have one; None for a range.
        ordered: Whether neighbours in ``values`` are alike.
        low: Lower bound of a range.
        high: Upper bound of a range.
        integer: Whether a range holds integers.
        log: Whether a range is logarithmic.
    """

    name: str
    label: str
    values: tuple[Any, ...] | None = None
    ordered: bool = True
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False

    def count(self) -> int | None:
        """Number of values; None for a continuum."""
        if self.values is not None:
            return len(self.values)
        if self.integer:
            return int(self.high) - int(self.low) + 1
        return 1 if self.low == self.high else None

    def all_values(self) -> tuple[Any, ...]:
        """Every value of a finite axis."""
        if self.values is not None:
            return self.values
        return tuple(range(int(self.low), int(self.high) + 1)) if self.integer else (self.low,)

    def distribution(self) -> BaseDistribution:
        """Optuna's view; choices are told by their index, so that order is kept and values may be lists."""
        from optuna.distributions import (  # noqa: PLC0415 - a space is counted without optuna
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.values is not None:
            indices = range(len(self.values))
            return IntDistribution(0, indices[-1]) if self.ordered else CategoricalDistribution(list(indices))
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def decode(self, raw: Any) -> Any:
        """Value of Optuna's ``raw``."""
        return raw if self.values is None else self.values[raw]

    def encode(self, value: Any) -> Any:
        """Optuna's form of ``value``."""
        return value if self.values is None else self.values.index(value)

    def at(self, share: float) -> Any:
        """Value at a share of the way from the low end to the high; the first where there is no order."""
        if self.values is not None:
            return self.values[round(share * (len(self.values) - 1)) if self.ordered else 0]
        if share in {0.0, 1.0}:  # exactly the bound: exp(log(x)) may leave it
            value = self.high if share else self.low
        elif self.log:
            value = math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.integer else value


def _features(schedule: Schedule) -> list[tuple[str, int]]:
    """A schedule as decisions, coarse ones first."""
    first, *rest = schedule.decode
    last = schedule.decode[-1]
    steps = [(f"switch_{i}_step", segment.start_step) for i, segment in enumerate(rest, start=1)]
    between = [(f"bits_after_switch_{i}", segment.weight_bits) for i, segment in enumerate(rest[:-1], start=1)]
    return [
        ("prefill_weight_bits", schedule.prefill_weight_bits),
        ("first_decode_bits", first.weight_bits),
        ("last_decode_bits", last.weight_bits),
        ("switches", len(rest)),
        *steps,
        *between,
    ]


def _parameter_axis(path: str, parameter: Parameter) -> Axis:
    if parameter.type == "categorical":
        choices = parameter.choices or ()
        ordered = all(isinstance(choice, int | float) for choice in choices)
        values = tuple(sorted(choices, key=float) if ordered else choices)  # type: ignore[arg-type]
        return Axis(path, path, values, ordered)
    low, high = parameter.low or 0.0, parameter.high or 0.0
    integer = parameter.type == "int"
    if parameter.step is not None:
        step, low_point = parameter.step, low
        points = [low_point + index * step for index in range(round((high - low) / step) + 1)]
        return Axis(path, path, tuple(round(point) if integer else point for point in points))
    return Axis(path, path, None, True, low, high, integer, parameter.logarithmic)


class Space:
    """All designs of a study.

    Args:
        parameters: NPU parameters by dotted path.
        schedules: Schedules a design may use; none where traces are replayed as recorded.

    Raises:
        InputError: If a ``when`` names something that is not decided before, or a continuous parameter.
    """

    def __init__(self, parameters: Mapping[str, Parameter], schedules: Sequence[Schedule]) -> None:
        self.parameters = parameters
        self.schedules = {schedule.label(): schedule for schedule in schedules}
        self._axes = {path: _parameter_axis(path, parameter) for path, parameter in parameters.items()}
        self._features = {label: _features(schedule) for label, schedule in self.schedules.items()}
        self._feature_values = {
            name: len({value for row in self._features.values() for key, value in row if key == name})
            for name in {key for row in self._features.values() for key, _ in row}
        }
        self._check_conditions()

    def axis(self, path: str) -> Axis:
        """The axis of an NPU parameter."""
        return self._axes[path]

    def _check_conditions(self) -> None:
        parts = {f"{SCHEDULE_PREFIX}{name}" for name in self._feature_values}
        for path, parameter in self.parameters.items():
            for parent in parameter.when or {}:
                if parent.startswith(SCHEDULE_PREFIX) and parent not in parts:
                    raise unknown_name(f"part of the schedule in parameters.{path}.when", parent, parts)
                if parent in self._axes and self._axes[parent].count() is None:
                    raise InputError(f"parameters.{path}.when names '{parent}', which is continuous; give it choices")

    def _active(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        return all(values.get(parent) in allowed for parent, allowed in (parameter.when or {}).items())

    def _walk_schedule(self, pick: Callable[[Axis], Any]) -> Schedule | None:
        """Decide a schedule part by part; a part that only one value is left for is not asked."""
        left = list(self.schedules)
        depth = 0
        while len(left) > 1:
            name = self._features[left[0]][depth][0]
            choices = tuple(sorted({self._features[label][depth][1] for label in left}))
            if len(choices) > 1:
                text = SCHEDULE_PREFIX + name
                if len(choices) < self._feature_values[name]:
                    text += " of " + ",".join(map(str, choices))
                value = pick(Axis(SCHEDULE_PREFIX + name, text, choices))
                left = [label for label in left if self._features[label][depth][1] == value]
            depth += 1
        return self.schedules[left[0]] if left else None

    def _walk(self, pick: Callable[[Axis], Any], schedule: Schedule | None = None) -> Design:
        """Decide the schedule (unless given), then every parameter that acts."""
        if schedule is None:
            schedule = self._walk_schedule(pick)
        values = self.schedule_values(schedule)
        for path, parameter in self.parameters.items():
            if self._active(parameter, values):
                values[path] = pick(self._axes[path])
        return self._design(values, schedule)

    def _design(self, values: Mapping[str, Any], schedule: Schedule | None) -> Design:
        return Design({path: values[path] for path in self.parameters if path in values}, schedule)

    def schedule_values(self, schedule: Schedule | None) -> dict[str, Any]:
        """Parts of a schedule by the names that a condition may give."""
        if schedule is None:
            return {}
        return {SCHEDULE_PREFIX + name: value for name, value in self._features[schedule.label()]}

    def suggest(self, trial: Trial) -> Design:
        """Let Optuna choose a design."""

        def pick(axis: Axis) -> Any:
            if axis.values is not None and not axis.ordered:
                return axis.decode(trial.suggest_categorical(axis.label, range(len(axis.values))))
            if axis.values is not None:
                return axis.decode(trial.suggest_int(axis.label, 0, len(axis.values) - 1))
            if axis.integer:
                return trial.suggest_int(axis.label, int(axis.low), int(axis.high), log=axis.log)
            return trial.suggest_float(axis.label, axis.low, axis.high, log=axis.log)

        return self._walk(pick)

    def encode(self, design: Design) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Optuna's parameters and distributions of a design: what :meth:`suggest` would have asked for."""
        wanted = {**self.schedule_values(design.schedule), **design.npu}
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}

        def pick(axis: Axis) -> Any:
            value = wanted[axis.name]
            params[axis.label] = axis.encode(value)
            distributions[axis.label] = axis.distribution()
            return value

        self._walk(pick)
        return params, distributions

    def decode(self, canonical: Mapping[str, Any]) -> Design:
        """The design whose canonical form this is."""
        npu = {path: value for path, value in canonical.items() if path != "schedule"}
        label = canonical["schedule"]
        return Design(npu, None if label is None else self.schedules[label])

    def random(self, rng: np.random.Generator) -> Design:
        """Draw a design, every schedule with the same probability."""

        def pick(axis: Axis) -> Any:
            count = axis.count()
            if axis.values is not None and count is not None:
                return axis.values[int(rng.integers(count))]
            if axis.integer and not axis.log:
                return int(rng.integers(int(axis.low), int(axis.high) + 1))
            return axis.at(float(rng.random()))

        schedules = list(self.schedules.values())
        schedule = schedules[int(rng.integers(len(schedules)))] if schedules else None
        return self._walk(pick, schedule)

    def at(self, share: float, schedule: Schedule | None) -> Design:
        """The design with every NPU parameter at a share of its range: 0 the low corner, 1 the high one."""
        return self._walk(lambda axis: axis.at(share), schedule)

    def size(self) -> int | None:
        """Number of designs; None where a parameter is continuous."""
        axes = [self._axes[path] for path in self.parameters]
        if any(axis.count() is None for axis in axes):
            return None
        parents = {parent for parameter in self.parameters.values() for parent in parameter.when or {}}

        def count(index: int, values: dict[str, Any]) -> int:
            if index == len(axes):
                return 1
            axis = axes[index]
            if not self._active(self.parameters[axis.name], values):
                return count(index + 1, values)
            if axis.name in parents:
                return sum(count(index + 1, {**values, axis.name: value}) for value in axis.all_values())
            return (axis.count() or 0) * count(index + 1, values)

        if not self.schedules:
            return count(0, {})
        if not any(parent.startswith(SCHEDULE_PREFIX) for parent in parents):
            return len(self.schedules) * count(0, {})
        return sum(count(0, self.schedule_values(schedule)) for schedule in self.schedules.values())

    def enumerate(self) -> Iterator[Design]:
        """Every design of a finite space, schedule by schedule, the last parameter fastest."""
        paths = list(self.parameters)

        def expand(index: int, values: dict[str, Any], schedule: Schedule | None) -> Iterator[Design]:
            if index == len(paths):
                yield self._design(values, schedule)
                return
            path = paths[index]
            if not self._active(self.parameters[path], values):
                yield from expand(index + 1, values, schedule)
                return
            for value in self._axes[path].all_values():
                yield from expand(index + 1, {**values, path: value}, schedule)

        for schedule in self.schedules.values() or [None]:
            yield from expand(0, self.schedule_values(schedule), schedule)
