"""Numbers that a sensitivity analysis varies, and within which range.

Around a design these are the study's parameters that act in it and the numbers that the NPU file marks as assumed, each
by a share or to its neighbouring choice; over the study's ranges its parameters and its schedules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dse.problem import Problem
from dse.space import Axis, Design
from hwsim.trace import InputError

SCHEDULE = "schedule"


@dataclass(frozen=True)
class Factor:
    """A number that is varied.

    Attributes:
        path: Field of the NPU, or ``schedule``.
        axis: Its values, all equally likely; a range is uniform on the axis's scale.
        assumed: Whether the NPU file marks it as assumed.
        value: Its value at the design; None over the study's ranges.
    """

    path: str
    axis: Axis
    assumed: bool = False
    value: Any = None

    @property
    def ends(self) -> tuple[Any, Any]:
        """First and last value."""
        values = self.axis.values
        return (self.axis.low, self.axis.high) if values is None else (values[0], values[-1])

    def place(self, quantile: float) -> Any:
        """Value at a quantile in [0, 1): choices and integers have equal shares, a range is uniform."""
        axis = self.axis
        if axis.values is not None:
            return axis.values[min(int(quantile * len(axis.values)), len(axis.values) - 1)]
        if axis.integer and not axis.log:
            return int(axis.low) + int(quantile * (int(axis.high) - int(axis.low) + 1))
        return axis.at(quantile)


def factors_over_ranges(problem: Problem) -> tuple[list[Factor], dict[str, str]]:
    """The study's parameters and its schedules; those with one value only are held, with the reason."""
    space = problem.space
    held = {path: "has one value only" for path in space.parameters if space.axis(path).count() == 1}
    factors = [Factor(path, space.axis(path)) for path in space.parameters if path not in held]
    if len(space.schedules) > 1:
        factors.append(Factor(SCHEDULE, Axis(SCHEDULE, SCHEDULE, tuple(space.schedules), ordered=False)))
    return factors, held


def factors_around(problem: Problem, centre: Design, around: float) -> tuple[list[Factor], dict[str, str]]:
    """The parameters that act in a design and the assumed numbers of the NPU file; what cannot be varied is held.

    Args:
        problem: The study.
        centre: The design.
        around: Share by which a number without listed choices varies; an integer by one at least.
    """
    from hwsim import load_npu  # noqa: PLC0415 - importing dse does not load the simulator
    from hwsim.assumptions import assumed_numbers  # noqa: PLC0415

    study, space = problem.study, problem.space
    config = load_npu(study.npu, centre.npu).model_dump()
    assumed = [path for path in assumed_numbers(study.npu) if path not in centre.npu]
    factors: list[Factor] = []
    off = [path for path in space.parameters if path not in centre.npu and path not in assumed]
    held = dict.fromkeys(off, "does not act in this design")
    for path in [*centre.npu, *assumed]:
        value = centre.npu[path] if path in centre.npu else _value_at(config, path)
        near = _neighbours(space.axis(path), value, around) if path in centre.npu else _near(value, around)
        usable = [one for one in near if one == value or _loads(study.npu, {**centre.npu, path: one})]
        if len(near) < 2:
            held[path] = f"nothing lies near {value}"
        elif len(usable) < 2:
            held[path] = f"the NPU takes no value beside {value}"
        else:
            listed = path in centre.npu and space.axis(path).values is not None
            axis = Axis(path, path, tuple(usable)) if listed else _range(path, usable)
            factor = Factor(path, axis, assumed=path in assumed, value=value)
            if rival := _rival(study.npu, centre, factors, factor):
                held[path] = f"not every value goes with every one of {rival}"
            else:
                factors.append(factor)
    return factors, held


def _rival(npu: str, centre: Design, factors: Sequence[Factor], added: Factor) -> str | None:
    """The first factor that has an end which the NPU does not take together with one of another."""
    for factor in factors:
        pairs = ({factor.path: one, added.path: other} for one in factor.ends for other in added.ends)
        if not all(_loads(npu, {**centre.npu, **pair}) for pair in pairs):
            return factor.path
    return None


def _neighbours(axis: Axis, value: Any, around: float) -> Sequence[Any]:
    if axis.values is None:
        return _near(value, around)
    if not axis.ordered:
        return [value]
    place = axis.values.index(value)
    return axis.values[max(0, place - 1) : place + 2]


def _near(value: float, around: float) -> Sequence[float]:
    """The value between the ends of its range."""
    if isinstance(value, int):
        reach = max(1, int(around * abs(value)))
        return [value - reach, value, value + reach]
    return [value * (1 - around), value, value * (1 + around)] if value else [value]


def _range(path: str, usable: Sequence[float]) -> Axis:
    return Axis(path, path, low=usable[0], high=usable[-1], integer=all(isinstance(one, int) for one in usable))


def _value_at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = value[int(part) if part.isdigit() else part]
    return value


def _loads(npu: str, changes: Mapping[str, Any]) -> bool:
    from hwsim import load_npu  # noqa: PLC0415

    try:
        load_npu(npu, changes)
    except InputError:
        return False
    return True
