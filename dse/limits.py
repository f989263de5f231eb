"""Limits that are known to hold for no design, or for no design with some schedule, before anything is simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dse.objective import QUALITY_METRICS, NoDesignError, violation
from dse.study import Constraint, StudyConfig
from hwsim.trace import InputError

if TYPE_CHECKING:
    from dse.plans import Plan
    from dse.quality import MeasuredQuality
    from dse.simulator import Simulator

_BANDWIDTH = "memory.bandwidth_bytes_per_s"


def check_quality_metrics(study: StudyConfig, quality: MeasuredQuality | None) -> None:
    """Refuse an objective or a limit on a quality that nobody measures.

    Raises:
        InputError: With what is missing.
    """
    for kind, items in (("objective", study.objectives), ("constraint", study.constraints)):
        for item in items:
            if item.name not in QUALITY_METRICS:
                continue
            if quality is None:
                raise InputError(f"{kind} '{item.name}': the study names no quality file; add one under quality")
            quality.require(item.name)


def check_parameter_limits(study: StudyConfig, fixed: Mapping[str, float]) -> None:
    """Refuse a limit that no value of its parameter keeps.

    Args:
        study: The study.
        fixed: Values of the NPU file, for what no parameter changes or only under a condition.

    Raises:
        InputError: With the best value and how far it is off.
    """
    for index, constraint in enumerate(study.constraints):
        path = _BANDWIDTH if constraint.name == "bandwidth_bytes_per_s" else constraint.name
        parameter = study.parameters.get(path)
        values = [*parameter.bounds()] if parameter is not None and parameter.numeric else []
        values += [fixed[path]] if path in fixed and (parameter is None or parameter.when) else []
        if not values:
            continue
        best = min(values) if constraint.op == "<=" else max(values)
        if violation(constraint, best) > 0:
            remedy = "widen the parameter" if parameter is not None else f"make {path} a parameter"
            raise InputError(
                f"constraints.{index}: {constraint}: {'parameter ' if parameter is not None else ''}{path} reaches "
                f"{best:g} at best, {abs(best - constraint.limit):g} off; {remedy} or relax the bound"
            )


def exclude(
    study: StudyConfig,
    schedules: Mapping[str, Plan],
    quality: MeasuredQuality | None,
    simulator: Simulator | None,
) -> tuple[list[Plan], dict[str, str]]:
    """Leave out schedules that are known beforehand to break a limit, so that no simulation is spent on them.

    Args:
        study: Whose limits count.
        schedules: What is to be explored.
        quality: Its quality.
        simulator: Which widths its NPUs read.

    Returns:
        The schedules kept, and the others' reasons by label.

    Raises:
        NoDesignError: If none is left: which limit binds, and by how much.
    """
    excluded: dict[str, str] = {} if quality is None else dict(quality.missing)
    limits = [constraint for constraint in study.constraints if constraint.name in QUALITY_METRICS]
    readable: list[str] = []
    for label, schedule in schedules.items():
        if simulator is not None and (reason := simulator.unsupported(schedule)):
            excluded[label] = reason
            continue
        readable.append(label)
        row = {} if quality is None else quality.metrics[label]
        # A quality that is still to be measured is judged when it is.
        if broken := [str(limit) for limit in limits if row and violation(limit, row[limit.name]) > 0]:
            excluded[label] = ", ".join(broken)
    kept = [schedule for label, schedule in schedules.items() if label not in excluded]
    if schedules and not kept:
        if not readable or quality is None:
            label, reason = next(iter(excluded.items()))
            raise NoDesignError(f"schedules: none of {len(schedules)} can be used; {label}: {reason}")
        raise NoDesignError(_what_binds({label: quality.metrics[label] for label in readable}, limits))
    return kept, excluded


def _what_binds(rows: Mapping[str, Mapping[str, float]], limits: Sequence[Constraint]) -> str:
    """Which limit stops every schedule: one that fails alone, or else the cheapest to relax."""

    def best(limit: Constraint, among: Sequence[str]) -> tuple[float, str]:
        return min((violation(limit, rows[label][limit.name]), label) for label in among)

    alone = {limit: best(limit, list(rows)) for limit in limits}
    worst = max(limits, key=lambda limit: alone[limit][0])
    if alone[worst][0] > 0:
        return _binding(worst, alone[worst][1], rows, "no measured schedule keeps it; the best")
    nearest: dict[Constraint, tuple[float, str]] = {}
    for limit in limits:
        others = [other for other in limits if other is not limit]
        among = [
            label for label, row in rows.items() if all(violation(other, row[other.name]) <= 0 for other in others)
        ]
        if among:
            nearest[limit] = best(limit, among)
    if not nearest:
        return f"no schedule of {len(rows)} keeps {' and '.join(map(str, limits))}; relax them"
    limit = min(nearest, key=lambda one: nearest[one][0])
    return _binding(
        limit,
        nearest[limit][1],
        rows,
        "no measured schedule keeps it and the other limits; of those that keep the others the best",
    )


def _binding(limit: Constraint, label: str, rows: Mapping[str, Mapping[str, float]], text: str) -> str:
    value = rows[label][limit.name]
    return (
        f"constraint {limit}: {text}, {label}, has {value:.4g}, {abs(value - limit.limit):.4g} off; relax the bound or "
        "measure more schedules"
    )
