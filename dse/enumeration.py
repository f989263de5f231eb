"""What is known of every design of a finite space: its bounds, what became of it, and the front so far.

Each design has optimistic losses. It is pruned if even these break a constraint, or if a simulated feasible design is
nowhere worse than them and somewhere better: its true losses can then only be dominated too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dse.bounds import EXACT_METRICS, is_optimistic
from dse.candidates import Candidates
from dse.design_grid import DesignGrid
from dse.dominance import by_promise, dominated, non_dominated
from dse.objective import METRICS, QUALITY_METRICS, NoDesignError, losses, signs, violations
from dse.problem import Problem
from dse.question import find_binding
from dse.simulator import Simulator
from hwsim.trace import BittaperError, InputError

Rows = NDArray[np.intp]
FloatArray = NDArray[np.float64]

OPEN, CHOSEN, TOLD = -1, -2, -3
"""What became of a design: nothing yet, chosen to be simulated, simulated. Pruned ones have their reason's number."""

CANNOT_RUN = "cannot run"

TOLERANCE = 1e-6
"""Share by which a simulated metric may seem better than its bound through rounding."""


class Enumeration:
    """Every design of a space.

    Args:
        problem: What is explored; its space is finite.
        bounded: Compute bounds; else nothing is known of any design.

    Attributes:
        candidates: The designs.
        state: What became of each, ``[designs]``.
        names: Objectives and limited quantities.
        losses: Optimistic losses, or simulated ones of what is ``known``, ``[designs, objectives]``.
        known: Whose metrics are simulated, ``[designs]``.
        front: Losses of the simulated feasible designs that none dominates.
        grid: Evaluates many designs at once; None where the problem's evaluator does not.
        largest_gap: Largest ratio of a bound and the simulated value, by metric.

    Raises:
        NoDesignError: If no design can keep the constraints.
    """

    def __init__(self, problem: Problem, *, bounded: bool) -> None:
        self.problem = problem
        self.candidates = Candidates.enumerate(problem.space)
        study, count = problem.study, len(self.candidates)
        self.state = np.full(count, OPEN, dtype=np.int16)
        self.known = np.zeros(count, dtype=bool)
        self.losses = np.full((count, len(study.objectives)), -np.inf)
        self.front = np.empty((0, len(study.objectives)))
        self.grid: DesignGrid | None = None
        self.largest_gap: dict[str, float] = {}
        self._reasons: dict[str, int] = {}
        self._first_error = ""
        self._ratios: dict[str, list[FloatArray]] = {}
        objectives = [objective.name for objective in study.objectives]
        self.names = list(dict.fromkeys([*objectives, *(limit.name for limit in study.constraints)]))
        self.values: dict[str, FloatArray] = {}
        if bounded and problem.gridded:
            assert isinstance(problem.evaluate, Simulator), "what stands in has no grid"
            self.grid = DesignGrid(problem.evaluate, self.candidates)
        if bounded:
            self._bound()

    @property
    def open(self) -> NDArray[np.bool_]:
        """Designs that are neither pruned nor chosen, ``[designs]``."""
        return np.asarray(self.state == OPEN)

    def _bound(self) -> None:
        found = self.problem.optimistic_many(self.candidates, self.grid)
        invalid = np.zeros(len(self.candidates), dtype=bool) if self.grid is None else ~self.grid.valid
        for name, values in found.items():
            if name in METRICS and name not in QUALITY_METRICS:
                invalid |= np.isnan(values)
        for name in self.names:
            self.values[name] = found.get(name, self.candidates.column(name))
        if invalid.any():
            self._first_error = self._error(int(np.argmax(invalid)))
        self.prune(np.flatnonzero(invalid), CANNOT_RUN)
        self.bound(np.arange(len(self.candidates)), {}, "")
        if not self.open.any():
            raise NoDesignError(self.why_hopeless())

    def bound(self, rows: Rows, values: Mapping[str, FloatArray], how: str) -> None:
        """Take over sharper bounds of some designs, and prune those that break a limit even so.

        Args:
            rows: The designs.
            values: Optimistic metrics by name, ``[rows]``.
            how: Behind the reason why a design is pruned.
        """
        study = self.problem.study
        for name, found in values.items():
            if name in self.values:
                self.values[name][rows] = found
        for column, objective in enumerate(study.objectives):
            if is_optimistic(objective):
                found = self.values[objective.name][rows] * signs([objective])[0]
                self.losses[rows, column] = np.where(np.isnan(found), -np.inf, found)
        for limit in study.constraints:
            if is_optimistic(limit):
                broken = self._breaks(limit, rows)
                self.prune(rows[broken & (self.state[rows] == OPEN)], f"breaks {limit}{how}")

    def _breaks(self, limit: Any, rows: Rows) -> NDArray[np.bool_]:
        values = self.values[limit.name][rows]
        return np.asarray(values < limit.limit if limit.op == ">=" else values > limit.limit)

    def _error(self, index: int) -> str:
        design = self.candidates.design(index)
        try:
            self.problem.optimistic_metrics(design)
            self.problem.metrics(design)
        except InputError as error:
            return str(error)
        return "no reason found"

    def why_hopeless(self) -> str:
        """Which limit binds where no design keeps all, by the sharpest bounds, or by what was simulated."""
        rows = np.flatnonzero(self.runnable(np.arange(len(self.candidates))))
        if not len(rows):
            return f"no design can run; the first: {self._first_error or self._error(0)}"
        what = "even the bound of the best one"
        limits = self.problem.study.constraints
        binding = find_binding(self._frame(rows), [limit for limit in limits if is_optimistic(limit)])
        if binding is None:  # a limit that nothing bounds
            rows = np.flatnonzero(self.known)
            what = f"the best of {len(rows)} simulated"
            binding = find_binding(self._frame(rows), limits)
        assert binding is not None, "every row was pruned by a limit"
        gap = abs(binding.best - binding.constraint.limit)
        return (
            f"no design of {len(self.candidates)} can keep the constraints: {binding.constraint} binds: {what} "
            f"{'' if binding.alone else 'that keeps the others '}is {binding.best:.6g}, {gap:.4g} off"
        )

    def _frame(self, rows: Rows) -> pd.DataFrame:
        return pd.DataFrame({"number": rows, **{name: values[rows] for name, values in self.values.items()}})

    def prune(self, rows: Rows, reason: str) -> None:
        """Leave designs out."""
        if len(rows):
            self.state[rows] = self._reasons.setdefault(reason, len(self._reasons))

    def pruned(self) -> Rows:
        """Designs that were left out."""
        return np.flatnonzero(self.state > OPEN)

    def reasons(self) -> dict[str, int]:
        """How many designs were left out, by reason."""
        counts = np.bincount(self.state[self.pruned()], minlength=len(self._reasons))
        return dict(sorted((reason, int(counts[number])) for reason, number in self._reasons.items() if counts[number]))

    def simulated(self, rows: Rows, values: Mapping[str, FloatArray]) -> None:
        """Take over what simulating gave; nothing is pruned by it yet.

        Raises:
            BittaperError: If a value beats its bound, since everything pruned would then be in doubt.
        """
        for name, found in values.items():
            if name in self.values:
                self._check_bound(name, rows, found)
                self.values[name][rows] = found
            elif name in self.names:
                self.values[name] = np.full(len(self.candidates), np.nan)
                self.values[name][rows] = found
        for column, objective in enumerate(self.problem.study.objectives):
            self.losses[rows, column] = self.values[objective.name][rows] * signs([objective])[0]
        self.known[rows] = True

    def feasible(self, rows: Rows) -> NDArray[np.bool_]:
        """Which simulated designs keep every constraint, ``[rows]``."""
        good = np.ones(len(rows), dtype=bool)
        for limit in self.problem.study.constraints:
            good &= ~self._breaks(limit, rows)
        return good

    def prune_infeasible(self, rows: Rows) -> None:
        """Leave out simulated designs for the first limit that each breaks."""
        for limit in self.problem.study.constraints:
            broken = rows[self._breaks(limit, rows) & self.open[rows]]
            self.prune(broken, f"breaks {limit} when simulated")

    def _check_bound(self, name: str, rows: Rows, found: FloatArray) -> None:
        if name not in METRICS or name in QUALITY_METRICS:
            return
        bound = self.values[name][rows]
        if np.isnan(bound).all():
            return  # nothing was known of it
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where((bound == 0) | np.isnan(bound), 1.0, found / bound)
        better = ratios - 1 if METRICS[name].better == "maximize" else 1 - ratios
        wrong = np.abs(better) > TOLERANCE if name in EXACT_METRICS else better > TOLERANCE
        if wrong.any():
            place = int(np.argmax(wrong))
            design = self.candidates.design(int(rows[place])).canonical()
            raise BittaperError(
                f"{name} = {found[place]:.6g} beats its bound {bound[place]:.6g} in {design}: the bound is wrong, "
                "please report this; set sampler: tpe to go on without bounds"
            )
        if name not in EXACT_METRICS:
            gap = float(np.max(np.maximum(ratios, 1 / ratios), initial=1.0))
            self.largest_gap[name] = max(self.largest_gap.get(name, 1.0), gap)
            self._ratios.setdefault(name, []).append(ratios)

    def scale(self, name: str) -> float:
        """Typical ratio of a simulated metric to its bound."""
        return float(np.median(np.concatenate(self._ratios[name]))) if self._ratios.get(name) else 1.0

    def add_to_front(self, rows: Rows) -> FloatArray:
        """Let simulated feasible designs beat others.

        Returns:
            Losses of those that none beats so far.
        """
        points = self.losses[rows]
        points = points[~dominated(points, self.front)]
        points = _each_once(points[non_dominated(points)])
        self.front = _each_once(np.vstack([self.front[~dominated(self.front, points)], points]))
        return points

    def renew_front(self, reason: str) -> None:
        """Let all that is simulated, feasible and not pruned yet beat each other; what none beats is the front.

        Args:
            reason: Why the others are pruned.
        """
        rows = np.flatnonzero(self.known & self.open)
        best = non_dominated(self.losses[rows])
        self.prune(rows[~best], reason)
        self.front = _each_once(self.losses[rows[best]])

    def prune_beaten(self, rows: Rows, points: FloatArray, reason: str) -> None:
        """Leave out those of ``rows`` whose losses, or even whose bounds, one of ``points`` dominates."""
        self.prune(rows[dominated(self.losses[rows], points)], reason)

    def runnable(self, rows: Rows) -> NDArray[np.bool_]:
        """Which designs are not known to be impossible, ``[rows]``."""
        return np.asarray(self.state[rows] != self._reasons.get(CANNOT_RUN, OPEN))

    def row(self, index: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Objectives and limited quantities of a design that was simulated aside."""
        return {name: float(metrics.get(name, values[index])) for name, values in self.values.items()}

    def keeps_limits(self, row: Mapping[str, float]) -> bool:
        """Whether a design keeps every constraint."""
        return all(value <= 0 for value in violations(self.problem.study.constraints, row).values())

    def point(self, row: Mapping[str, float]) -> list[float]:
        """Losses of a design."""
        return losses(self.problem.study.objectives, row)

    def check_bounds(self, index: int, metrics: Mapping[str, float]) -> None:
        """See that a simulation keeps to what was known of a design.

        Raises:
            BittaperError: If a value beats its bound.
        """
        for name in self.values.keys() & metrics.keys():
            self._check_bound(name, np.array([index]), np.array([metrics[name]]))


def _each_once(points: FloatArray) -> FloatArray:
    """Points by their promise, of equal ones one."""
    ordered = points[by_promise(points)]
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[new]
