"""Designs that every sampler begins with: the user's own, and what can be said of the space before any simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.candidates import Candidates
from dse.objective import losses, violations
from dse.pareto import hypervolume_subset
from dse.plans import typical_bits
from dse.screening import reference_losses
from hwsim.trace import InputError, unknown_name

if TYPE_CHECKING:
    from dse.problem import Problem
    from dse.space import Axis, Design, Space

BOUNDED_DRAWS = 2000
"""Random designs whose bounds are computed for a warm start."""

BOUNDED_STARTS = 6
"""Of them, designs that are simulated: those whose bounds promise the most hypervolume together."""


def enqueued(problem: Problem) -> list[Design]:
    """The designs that the study asks for by ``start``.

    Raises:
        InputError: If one is not in the space, with what is wrong.
    """
    return [_design(problem.space, values, f"start.{index}") for index, values in enumerate(problem.study.start)]


def _design(space: Space, values: Mapping[str, Any], place: str) -> Design:
    given = dict(values)
    label = given.pop("schedule", None)
    if space.schedules and label not in space.schedules:
        raise unknown_name(f"schedule in {place} (or it breaks a limit)", str(label), list(space.schedules))
    if not space.schedules and label is not None:
        raise InputError(f"{place}.schedule = {label}: the study replays its traces as recorded; leave it out")

    def pick(axis: Axis) -> Any:
        if axis.name not in given:
            raise InputError(f"{place}: gives no value for {axis.name}, which acts in this design; add it")
        value = given.pop(axis.name)
        if axis.values is None:
            inside = isinstance(value, int | float) and axis.low <= value <= axis.high
            if not inside or (axis.integer and not float(value).is_integer()):
                kind = "an integer" if axis.integer else "a number"
                raise InputError(
                    f"{place}.{axis.name} = {value}: must be {kind} within {axis.low:g}..{axis.high:g}, the range "
                    f"explored"
                )
            return int(value) if axis.integer else float(value)
        if value not in axis.values:
            choices = ", ".join(map(str, axis.values[:8])) + (", ..." if len(axis.values) > 8 else "")
            raise InputError(f"{place}.{axis.name} = {value}: is not one of the values explored: {choices}")
        return axis.values[axis.values.index(value)]

    design = space.walk(pick, None if label is None else space.schedules[label])
    if given:
        name = next(iter(given))
        if name in space.parameters:
            raise InputError(f"{place}.{name} = {given[name]}: does not act in this design; leave it out")
        raise unknown_name(f"parameter in {place}", name, [*space.parameters, "schedule"])
    return design


def bracketing(problem: Problem) -> list[Design]:
    """Designs whose trade-offs bracket the front.

    These are the least, the most and the middle amount of hardware, each under the schedule with the fewest bits and
    the one with the best quality (where it is not known beforehand, the most bits).
    """
    space, quality = problem.space, problem.quality
    labels = list(space.schedules)
    if not labels:
        return [space.at(share, None) for share in (0.0, 1.0, 0.5)]
    bits = {label: typical_bits(plan) for label, plan in space.schedules.items()}
    prefill = {label: getattr(plan, "prefill_weight_bits", 0) for label, plan in space.schedules.items()}
    fewest = min(labels, key=lambda label: (bits[label], prefill[label]))
    best = max(labels, key=lambda label: bits[label])
    known = quality is not None and problem.study.live_quality is None
    if known and quality is not None and all("relative_quality" in quality.metrics[label] for label in labels):
        best = max(labels, key=lambda label: quality.metrics[label]["relative_quality"])
    return [space.at(share, space.schedules[label]) for share in (0.0, 1.0, 0.5) for label in (fewest, best)]


def bounded(problem: Problem) -> list[Design]:
    """Designs whose bounds promise most, chosen one by one for what they add; none where there are no bounds."""
    study, space = problem.study, problem.space
    if problem.bounds is None or study.live_quality is not None:
        return []
    rng = np.random.default_rng(study.seed)
    designs = list({design.key: design for design in (space.random(rng) for _ in range(BOUNDED_DRAWS))}.values())
    columns = problem.optimistic_many(Candidates.of(space, designs))
    names = list(columns)
    rows = [
        {**design.npu, **dict(zip(names, values, strict=True))}
        for design, values in zip(designs, zip(*(columns[name].tolist() for name in names), strict=True), strict=True)
    ]
    kept = [
        index
        for index, row in enumerate(rows)
        if np.isfinite([row[name] for name in names]).all()
        and all(value <= 0 for value in violations(study.constraints, row).values())
    ]
    if not kept:
        return []
    points = np.array([losses(study.objectives, rows[index]) for index in kept])
    chosen = hypervolume_subset(points, [], reference_losses(study, points), BOUNDED_STARTS)
    return [designs[kept[index]] for index in chosen]


def starting_designs(problem: Problem) -> list[Design]:
    """Where Optuna's samplers begin: the user's designs, then the bracketing ones, then what bounds promise."""
    every = [*enqueued(problem), *bracketing(problem), *bounded(problem)]
    return list({design.key: design for design in every}.values())
