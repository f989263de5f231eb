"""The joint space of NPU parameters and schedules, as conditional Optuna parameters.

A design's canonical form leaves out what does not act (a parameter whose condition fails), so equal
designs have equal keys. The schedule is taken apart into scheduler, prefill bits, first and last decode bits,
number of switches, their steps and the bits between; each is offered only with the values that still
lead to a listed schedule. A sampler sees that structure, and can reach every listed schedule and no other.
These decisions form a tree that is built once, so that choosing one of 100,000 schedules takes microseconds.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dse.parameters import Parameter
from dse.plans import Plan, RecordedPlan, scheduler_name
from hwsim.trace import InputError, canonical_sha256, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

SCHEDULE_PREFIX = "schedule."

MAX_LISTED = 60
"""Characters of the choices that are spelt out in the name of a decision; a hash tells longer ones apart."""


@dataclass(frozen=True)
class Design:
    """One point: NPU fields that differ from the file, and what runs on it (None: the trace as recorded)."""

    npu: Mapping[str, Any]
    schedule: Plan | None

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


def _features(plan: Plan) -> list[tuple[str, Any]]:
    """A plan as decisions, coarse ones first."""
    scheduler = ("scheduler", scheduler_name(plan))
    if isinstance(plan, RecordedPlan):
        return [scheduler, ("plan", plan.label())]
    first, *rest = plan.decode
    steps = [(f"switch_{i}_step", segment.start_step) for i, segment in enumerate(rest, start=1)]
    between = [(f"bits_after_switch_{i}", segment.weight_bits) for i, segment in enumerate(rest[:-1], start=1)]
    return [
        scheduler,
        ("prefill_weight_bits", plan.prefill_weight_bits),
        ("first_decode_bits", first.weight_bits),
        ("last_decode_bits", plan.decode[-1].weight_bits),
        ("switches", len(rest)),
        *steps,
        *between,
    ]


@dataclass(frozen=True)
class _Fork:
    """A decision that parts the schedules left, and what is left after each choice: one, or another decision."""

    axis: Axis
    branches: Mapping[Any, _Fork | str]


def _parameter_axis(path: str, parameter: Parameter) -> Axis:
    if parameter.type == "categorical":
        choices = parameter.choices or ()
        values = tuple(sorted(choices, key=float) if parameter.numeric else choices)  # type: ignore[arg-type]
        return Axis(path, path, values, parameter.numeric)
    if (grid := parameter.grid()) is not None:
        return Axis(path, path, grid)
    low, high = parameter.low or 0.0, parameter.high or 0.0
    return Axis(path, path, None, True, low, high, parameter.type == "int", parameter.logarithmic)


class Space:
    """All designs of a study.

    Args:
        parameters: NPU parameters by dotted path.
        schedules: What a design may run; none where traces are replayed as recorded.

    Raises:
        InputError: If a ``when`` names something that is not decided before, or a continuous parameter.
    """

    def __init__(self, parameters: Mapping[str, Parameter], schedules: Sequence[Plan]) -> None:
        self.parameters = parameters
        self.schedules = {schedule.label(): schedule for schedule in schedules}
        self._axes = {path: _parameter_axis(path, parameter) for path, parameter in parameters.items()}
        self._features = {label: _features(schedule) for label, schedule in self.schedules.items()}
        values: defaultdict[str, set[Any]] = defaultdict(set)
        for row in self._features.values():
            for name, value in row:
                values[name].add(value)
        self._feature_values = {name: len(found) for name, found in values.items()}
        self._listed = list(self.schedules.values())
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

    @cached_property
    def _root(self) -> _Fork | str | None:
        return self._fork(list(self.schedules), 0) if self.schedules else None

    def _fork(self, labels: list[str], depth: int) -> _Fork | str:
        """The decisions from ``depth`` on among schedules that agree before; those with one choice are left out."""
        while len(labels) > 1:
            groups: defaultdict[Any, list[str]] = defaultdict(list)
            for label in labels:
                groups[self._features[label][depth][1]].append(label)
            if len(groups) > 1:
                axis = self._feature_axis(self._features[labels[0]][depth][0], tuple(sorted(groups)))
                return _Fork(axis, {choice: self._fork(groups[choice], depth + 1) for choice in axis.values or ()})
            depth += 1
        return labels[0]

    def _feature_axis(self, name: str, choices: tuple[Any, ...]) -> Axis:
        text = SCHEDULE_PREFIX + name
        if len(choices) < self._feature_values[name]:
            listed = ",".join(map(str, choices))
            if len(listed) > MAX_LISTED:
                listed = f"{len(choices)} values {hashlib.sha256(listed.encode()).hexdigest()[:8]}"
            text += f" of {listed}"
        return Axis(SCHEDULE_PREFIX + name, text, choices, ordered=not isinstance(choices[0], str))

    def _walk_schedule(self, pick: Callable[[Axis], Any]) -> Plan | None:
        """Decide a schedule part by part; a part that only one value is left for is not asked."""
        place = self._root
        while isinstance(place, _Fork):
            place = place.branches[pick(place.axis)]
        return None if place is None else self.schedules[place]

    def walk(self, pick: Callable[[Axis], Any], schedule: Plan | None = None) -> Design:
        """Decide the schedule (unless given), then every parameter that acts."""
        if schedule is None:
            schedule = self._walk_schedule(pick)
        values = self.schedule_values(schedule)
        for path, parameter in self.parameters.items():
            if self._active(parameter, values):
                values[path] = pick(self._axes[path])
        return self._design(values, schedule)

    def _design(self, values: Mapping[str, Any], schedule: Plan | None) -> Design:
        return Design({path: values[path] for path in self.parameters if path in values}, schedule)

    def schedule_values(self, schedule: Plan | None) -> dict[str, Any]:
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

        return self.walk(pick)

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

        self.walk(pick)
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

        schedule = self._listed[int(rng.integers(len(self._listed)))] if self._listed else None
        return self.walk(pick, schedule)

    def at(self, share: float, schedule: Plan | None) -> Design:
        """The design with every NPU parameter at a share of its range: 0 the low corner, 1 the high one."""
        return self.walk(lambda axis: axis.at(share), schedule)

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
        conditions = [parent.removeprefix(SCHEDULE_PREFIX) for parent in parents if parent.startswith(SCHEDULE_PREFIX)]
        kinds = Counter(
            tuple((name, value) for name, value in row if name in conditions) for row in self._features.values()
        )
        return sum(
            times * count(0, {SCHEDULE_PREFIX + name: value for name, value in kind}) for kind, times in kinds.items()
        )

    def enumerate(self) -> Iterator[Design]:
        """Every design of a finite space, schedule by schedule, the last parameter fastest."""
        paths = list(self.parameters)

        def expand(index: int, values: dict[str, Any], schedule: Plan | None) -> Iterator[Design]:
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
