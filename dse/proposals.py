"""A pool of designs worth simulating in full, found by evolution on the levels below.

Each generation varies the NPUs of the front found so far, runs every promising schedule on each (which costs next
to nothing once the NPU's steps are known), and keeps the front. Nothing here depends on a full simulation, so a
resumed run makes the same pool again from the study's seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.dominance import non_dominated
from dse.pareto import hypervolume_subset
from dse.plans import typical_bits
from dse.screening import Screened, best, reference_losses
from dse.simulator import Simulator
from hwsim.trace import Schedule

if TYPE_CHECKING:
    from dse.plans import Plan
    from dse.problem import Problem
    from dse.screening import Screen
    from dse.space import Axis, Design, Space

MAX_LISTED = 10_000
"""Designs up to which a finite space is screened as a whole instead of searched."""

DRAWS, GENERATIONS, PROMOTED = 2048, 6, 128
"""Designs bounded in each generation, the number of these, and how many NPUs of each rise to short traces."""

LEADERS = 64
"""Designs of the front that others are bred from and must add to: those that make most of its hypervolume."""

MAX_FRONT = 2048
"""Designs kept from one generation to the next, and offered in the end."""

MIN_PLANS, MAX_PLANS = 12, 48
"""Schedules tried on each NPU: all up to the first number, else those of most quality for their bits."""

CROSSOVER = 0.5
"""Share of children that have two parents."""

REACHES = (0.01, 0.03, 0.1, 0.3)
"""Typical distances of a mutation, as shares of a parameter's range."""


def make_pool(problem: Problem, screen: Screen, first: Sequence[Design] = ()) -> Screened:
    """Designs that the levels below a full simulation hold for the best.

    Args:
        problem: What is explored.
        screen: Those levels.
        first: Designs to begin with, besides random ones.

    Returns:
        The front of all that was screened; where nothing keeps the limits, what misses them least.
    """
    space = problem.space
    size = space.size()
    if size is not None and size <= MAX_LISTED:
        return best(screen(list(space.enumerate())), MAX_FRONT)
    plans = promising_plans(problem)
    rng = np.random.default_rng(problem.study.seed)
    seen: set[str] = set()
    found = leaders = Screened()
    for _ in range(GENERATIONS):
        if leaders.designs and space.parameters:
            drawn = [_child(space, leaders.designs, rng) for _ in range(DRAWS)]
        else:
            drawn = [*first, *(space.random(rng) for _ in range(DRAWS))]
        risen = _promoted(problem, screen, _unseen(drawn, seen), leaders)
        found = best(found.joined(screen(_under_all(space, risen, plans))), MAX_FRONT)
        leaders = _leaders(problem, found)
    return found


def _promoted(problem: Problem, screen: Screen, drawn: Sequence[Design], leaders: Screened) -> list[Design]:
    """The designs whose bounds promise to add most to the leaders; just the first ones where there are no bounds."""
    if problem.bounds is None:
        return list(drawn[:PROMOTED])
    bounded = screen.by_bounds(drawn)
    if not bounded.designs:
        return []
    known = leaders.losses[leaders.feasible] if leaders.designs else bounded.losses[:0]
    reference = reference_losses(problem.study, np.vstack([known, bounded.losses]))
    rows = hypervolume_subset(bounded.losses, known, reference, PROMOTED)
    return [bounded.designs[row] for row in rows]


def _leaders(problem: Problem, found: Screened) -> Screened:
    """The designs that make most of the front's hypervolume; while nothing keeps the limits, all that come near."""
    if not found.designs or not found.feasible.any():
        return found
    chosen = hypervolume_subset(found.losses, [], reference_losses(problem.study, found.losses), LEADERS)
    return found.take(np.array(chosen, dtype=np.intp)) if chosen else found


def promising_plans(problem: Problem) -> list[Plan | None]:
    """Schedules to try on every NPU.

    Fewer bits hardly ever take longer, so a schedule that another beats in both quality and bits waits behind it:
    front after front is taken until there are enough.
    """
    plans = list(problem.space.schedules.values())
    if len(plans) <= MIN_PLANS:
        return [*plans] or [None]
    quality = problem.quality
    names = {objective.name for objective in problem.study.objectives}
    names |= {limit.name for limit in problem.study.constraints}
    steps = _decode_steps(problem)
    rows = []
    for plan in plans:
        known = {} if quality is None else quality.metrics[plan.label()]
        rows.append([_mean_bits(plan, steps), *(-value for name, value in sorted(known.items()) if name in names)])
    points, left = np.array(rows), np.arange(len(plans))
    chosen: list[int] = []
    while len(chosen) < MIN_PLANS and len(left):
        layer = left[non_dominated(points[left])]
        chosen += layer.tolist()
        left = np.setdiff1d(left, layer)
    return [plans[index] for index in chosen[:MAX_PLANS]]


def _decode_steps(problem: Problem) -> int:
    """Decode steps of a mean sequence of the first workload, where one is known."""
    if not isinstance(problem.evaluate, Simulator):
        return 0
    trace = problem.evaluate.workloads[0].trace(next(iter(problem.space.schedules.values())))
    return round(trace.decode_steps() / len(trace.sequences))


def _mean_bits(plan: Plan, steps: int) -> float:
    return plan.mean_bits(steps) if isinstance(plan, Schedule) and steps else typical_bits(plan)


def _unseen(designs: Iterable[Design], seen: set[str]) -> list[Design]:
    new = []
    for design in designs:
        if design.key not in seen:
            seen.add(design.key)
            new.append(design)
    return new


def _under_all(space: Space, designs: Iterable[Design], plans: Sequence[Plan | None]) -> list[Design]:
    """Each design's NPU under its own schedule and every given one."""
    found: list[Design] = []
    for design in designs:
        own = [design.schedule] if design.schedule not in plans else []
        found += [_inherit(space, design, plan) for plan in (*own, *plans)]
    return found


def _inherit(space: Space, design: Design, plan: Plan | None) -> Design:
    """A design under another schedule; what acts only there takes its middle value."""
    return space.walk(lambda axis: design.npu.get(axis.name, axis.at(0.5)), plan)


def _child(space: Space, parents: Sequence[Design], rng: np.random.Generator) -> Design:
    """A design near one parent, or between two; at least one parameter moves."""
    one, other = (parents[int(rng.integers(len(parents)))] for _ in range(2))
    mixed = rng.random() < CROSSOVER
    paths = list(space.parameters)
    moving = {path for path in paths if rng.random() < 1 / len(paths)} or {paths[int(rng.integers(len(paths)))]}
    reach = REACHES[int(rng.integers(len(REACHES)))]

    def pick(axis: Axis) -> Any:
        donor = other if mixed and rng.random() < 0.5 else one
        value = donor.npu.get(axis.name, axis.at(float(rng.random())))
        return _moved(axis, value, reach, rng) if axis.name in moving else value

    return space.walk(pick, one.schedule)


def _moved(axis: Axis, value: Any, reach: float, rng: np.random.Generator) -> Any:
    """Another value of an axis, near ``value`` where there is an order."""
    if axis.values is not None and not axis.ordered:
        return axis.values[int(rng.integers(len(axis.values)))]
    if axis.values is not None:
        last = len(axis.values) - 1
        step = max(1, round(abs(rng.normal()) * reach * last))
        place = axis.values.index(value) + (step if rng.random() < 0.5 else -step)
        return axis.values[min(max(place, 0), last)]
    low, high = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
    if high == low:
        return value
    share = ((math.log(value) if axis.log else value) - low) / (high - low)
    return axis.at(min(max(share + float(rng.normal()) * reach, 0.0), 1.0))
