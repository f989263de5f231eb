"""Cheap levels below a full simulation: optimistic bounds, then a handful of steps of the trace.

Optuna prunes trials by intermediate values of one objective only. Here a design rises level by level, judged by
all objectives and limits at once: its bound must not already be beaten, its short trace must be on or near the front of
what short traces promise, and only then is it simulated in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.candidates import Candidates
from dse.dominance import non_dominated
from dse.fidelity import ShortTrace
from dse.objective import losses, violations
from dse.simulator import Simulator
from hwsim.trace import InputError

if TYPE_CHECKING:
    from dse.problem import Problem
    from dse.space import Design
    from dse.study import StudyConfig

FINEST_GRID = 1024
"""Cells along each objective into which a front that is too large is sorted at first."""

MARGIN = 0.1
"""Share of the promised range by which the reference point lies beyond it, where the study gives none."""


def can_screen(problem: Problem) -> bool:
    """Whether anything cheaper than a full simulation says what a design is worth."""
    known = problem.study.live_quality is None
    return known and (isinstance(problem.evaluate, Simulator) or problem.bounds is not None)


@dataclass
class Levels:
    """Evaluations below the full trace.

    Attributes:
        bound: Designs bounded.
        short: Designs told by a handful of steps.
        steps: Steps simulated for these; designs on one NPU share them.
    """

    bound: int = 0
    short: int = 0
    steps: int = 0


@dataclass
class Screened:
    """Designs with what the best affordable level promises of them.

    Attributes:
        designs: The designs.
        rows: Their parameters and promised metrics.
        losses: Promised losses, ``[designs, objectives]``.
        violations: Promised violation of each limit, ``[designs, limits]``.
    """

    designs: list[Design] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    violations: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def take(self, indices: NDArray[np.intp]) -> Screened:
        """Some of them, in the order of ``indices``."""
        chosen = indices.tolist()
        designs, rows = [self.designs[index] for index in chosen], [self.rows[index] for index in chosen]
        return Screened(designs, rows, self.losses[indices], self.violations[indices])

    def joined(self, other: Screened) -> Screened:
        """These and others."""
        if not self.designs or not other.designs:
            return self if self.designs else other
        return Screened(
            self.designs + other.designs,
            self.rows + other.rows,
            np.vstack([self.losses, other.losses]),
            np.vstack([self.violations, other.violations]),
        )

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which promise to keep every limit."""
        return np.asarray(np.all(self.violations <= 0, axis=1))


class Screen:
    """Judges designs below a full simulation.

    Args:
        problem: What is explored; :func:`can_screen` holds.

    Attributes:
        levels: How much was evaluated.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._short = ShortTrace(problem.evaluate) if isinstance(problem.evaluate, Simulator) else None
        self._ratios: dict[str, float] = {}
        self.levels = Levels()

    def by_bounds(self, designs: Sequence[Design]) -> Screened:
        """Judge designs by their bounds alone, scaled by how far short traces stayed behind them so far.

        Those are left out that cannot run, or break a limit even so.
        """
        if self._problem.bounds is None or not designs:
            return self._screened(list(designs), None)
        self.levels.bound += len(designs)
        columns = self._problem.optimistic_many(Candidates.of(self._problem.space, designs))
        valid = np.flatnonzero(np.all(np.isfinite(list(columns.values())), axis=0)).tolist()
        table = {name: column[valid].tolist() for name, column in columns.items()}
        rows = [
            {**designs[index].npu, **dict(zip(table, values, strict=True))}
            for index, values in zip(valid, zip(*table.values(), strict=True), strict=True)
        ]
        found = self._screened([designs[index] for index in valid], rows)
        found = found.take(np.flatnonzero(found.feasible))
        scale = np.array([self._ratios.get(objective.name, 1.0) for objective in self._problem.study.objectives])
        return Screened(found.designs, found.rows, found.losses * scale, found.violations)

    def __call__(self, designs: Sequence[Design]) -> Screened:
        """Judge designs by the best affordable level; those are left out that cannot run, or break a limit by bound."""
        bounded = self.by_bounds(designs)
        if self._short is None:
            return bounded
        steps = self._short.steps
        found = self._short.many(bounded.designs)
        self.levels.short += len(bounded.designs)
        self.levels.steps += self._short.steps - steps
        kept = [(index, metrics) for index, metrics in enumerate(found) if not isinstance(metrics, InputError)]
        rows = [self._row(bounded.designs[index], metrics) for index, metrics in kept]
        if self._problem.bounds is not None and kept:
            self._compare([bounded.rows[index] for index, _ in kept], rows)
        return self._screened([bounded.designs[index] for index, _ in kept], rows)

    def _compare(self, bounds: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the typical ratio of a short trace to its bound, by objective."""
        for objective in self._problem.study.objectives:
            pairs = [(row[objective.name], bound[objective.name]) for row, bound in zip(rows, bounds, strict=True)]
            ratios = [value / bound for value, bound in pairs if bound]
            if ratios:
                self._ratios[objective.name] = float(np.median(ratios))

    def _row(self, design: Design, metrics: Mapping[str, float]) -> dict[str, Any]:
        quality = self._problem.quality
        known = {} if quality is None or design.schedule is None else quality.metrics[design.schedule.label()]
        return {**design.npu, **metrics, **known}

    def _screened(self, designs: list[Design], rows: list[dict[str, Any]] | None) -> Screened:
        """Designs with their promises; without rows, nothing is promised of them."""
        study = self._problem.study
        values = [losses(study.objectives, row) for row in rows or ()]
        broken = [list(violations(study.constraints, row).values()) for row in rows or ()]
        return Screened(
            designs,
            [dict(design.npu) for design in designs] if rows is None else rows,
            np.array(values, dtype=float).reshape(-1, len(study.objectives)),
            np.array(broken, dtype=float).reshape(len(values), len(study.constraints)),
        )


def best(screened: Screened, limit: int) -> Screened:
    """The designs of which no other promises more: the front of the feasible, else those that miss least.

    Args:
        screened: Where to choose.
        limit: Most designs kept; a larger front is sorted into cells, one design each.
    """
    if not screened.designs:
        return screened
    feasible = np.flatnonzero(screened.feasible)
    if len(feasible) == 0:
        missed = np.maximum(screened.violations, 0.0).sum(axis=1)
        return screened.take(np.argsort(missed, kind="stable")[:limit])
    front = feasible[non_dominated(screened.losses[feasible])]
    return screened.take(_thinned(screened.losses, front, limit))


def reference_losses(study: StudyConfig, promised: NDArray[np.float64]) -> NDArray[np.float64]:
    """The study's reference point as losses; where it has none, a little beyond the worst that is promised."""
    if study.reference_point is not None:
        return np.array(losses(study.objectives, study.reference_point))
    if len(promised) == 0:
        return np.zeros(len(study.objectives))
    low, high = promised.min(axis=0), promised.max(axis=0)
    return np.asarray(high + MARGIN * np.where(high > low, high - low, np.maximum(np.abs(high), 1.0)))


def _thinned(points: NDArray[np.float64], rows: NDArray[np.intp], limit: int) -> NDArray[np.intp]:
    """Some ``limit`` of ``rows``, spread as evenly as cells can: the best of each cell, and of each objective."""
    low, high = points[rows].min(axis=0), points[rows].max(axis=0)
    ends = np.unique(points[rows].argmin(axis=0))
    share = (points[rows] - low) / np.where(high > low, high - low, 1.0)
    order = np.argsort(share.sum(axis=1), kind="stable")
    cells = FINEST_GRID
    while True:
        _, first = np.unique(np.floor(share[order] * cells), axis=0, return_index=True)
        if len(first) <= limit or cells == 1:
            return np.asarray(rows[np.union1d(order[first][:limit], ends)])
        cells //= 2
