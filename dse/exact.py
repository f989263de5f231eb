"""Enumeration of a finite space: bounds choose what to simulate next and prove what need not be.

Each design has optimistic losses (see :mod:`dse.bounds`). One is pruned if even these break a constraint, or
if an evaluated feasible design is nowhere worse than them and somewhere better: its true losses can then
only be dominated too. What is left is simulated in the order of the hypervolume it promises, with bounds
scaled by how far the simulator stayed behind them so far. When nothing is left the front is exact: it
equals that of simulating every design.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from dse.bounds import EXACT_METRICS, is_optimistic
from dse.log import Batch, Outcome
from dse.objective import METRICS, QUALITY_METRICS, losses, violation, violations
from dse.pareto import hypervolume_gain, non_dominated
from dse.problem import Problem
from dse.question import find_binding
from dse.space import Design
from hwsim.trace import BittaperError, InputError

Item = TypeVar("Item")

CONFIRMATIONS = 20
"""Pruned designs that are simulated in the end, beside the budget, to see that pruning them was right."""

MAX_CANDIDATES = 64
"""Designs whose promised hypervolume is computed for each choice, spread over the promised front."""

TOLERANCE = 1e-6
"""Share by which a simulated metric may seem better than its bound through rounding."""


class EnumeratedSearch:
    """Goes through every design of a space.

    Args:
        problem: What is explored; its space is finite.
        bounded: Prune and order by bounds; else every design is simulated, in a random order.
        progress: Show a progress bar while the bounds are computed.
    """

    def __init__(self, problem: Problem, *, bounded: bool, progress: bool) -> None:
        self._problem = problem
        self._bounded = bounded
        self._progress = progress
        self._designs = list(problem.space.enumerate())
        self._index = {design.key: index for index, design in enumerate(self._designs)}
        count, objectives = len(self._designs), problem.study.objectives
        self._order = np.random.default_rng(problem.study.seed).permutation(count)
        self._open = np.ones(count, dtype=bool)
        self._pruned: dict[int, str] = {}
        self._told: set[int] = set()
        self._front = np.empty((0, len(objectives)))
        self._bounds: list[Mapping[str, float]] = [{}] * count
        self._losses = np.full((count, len(objectives)), -np.inf)
        self._ratios: dict[str, list[float]] = {}
        if bounded:
            self._compute_bounds()
            known = self._losses[self._open]
            worst, best = known.max(axis=0, initial=-np.inf), known.min(axis=0, initial=np.inf)
            # A tenth beyond the worst, so that designs at the edge promise some volume too.
            span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
            self._reference = worst + 0.1 * span

    def _compute_bounds(self) -> None:
        study = self._problem.study
        for index, design in enumerate(self._bar(self._designs, "bounds")):
            try:
                metrics = self._problem.optimistic_metrics(design)
            except InputError as error:
                self._prune(index, f"cannot run: {error}")
                continue
            row = {**design.npu, **metrics}
            self._bounds[index] = row
            self._losses[index] = losses(study.objectives, row)
            for constraint in study.constraints:
                if is_optimistic(constraint) and violation(constraint, row[constraint.name]) > 0:
                    self._prune(index, f"breaks {constraint}")
                    break
        if not self._open.any():
            raise InputError(self._why_hopeless())

    def _bar(self, items: Sequence[Item], title: str) -> Iterable[Item]:
        return tqdm(items, desc=title, unit="design", disable=not self._progress, leave=False, dynamic_ncols=True)

    def _why_hopeless(self) -> str:
        rows = [{"number": index, **row} for index, row in enumerate(self._bounds) if row]
        if not rows:
            return f"no design can run; the first: {self._pruned[0]}"
        limits = [constraint for constraint in self._problem.study.constraints if is_optimistic(constraint)]
        binding = find_binding(pd.DataFrame(rows), limits)
        assert binding is not None, "every row was pruned by a limit"
        gap = abs(binding.best - binding.constraint.limit)
        return (
            f"no design of {len(self._designs)} can keep the constraints: {binding.constraint} binds: even the bound "
            f"of the best one {'' if binding.alone else 'that keeps the others '}is {binding.best:.6g}, {gap:.4g} off"
        )

    def _prune(self, index: int, reason: str) -> None:
        self._open[index] = False
        self._pruned[index] = reason

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs; fewer, or none, when nothing is left."""
        chosen: list[int] = []
        promised = self._front
        while len(chosen) < count and self._open.any():
            index = self._most_promising(promised) if self._bounded else self._first_open()
            self._open[index] = False
            chosen.append(index)
            if self._bounded:
                # Until its outcome is known, a chosen design is believed to keep its promise.
                promised = np.vstack([promised, self._predicted(np.array([index]))[0]])
        designs = [self._designs[index].canonical() for index in chosen]
        return Batch(first, first + len(chosen), 0, designs, [None] * len(chosen))

    def _first_open(self) -> int:
        return int(self._order[np.argmax(self._open[self._order])])

    def _scale(self, name: str) -> float:
        """Typical ratio of a simulated metric to its bound."""
        return float(np.median(self._ratios[name])) if self._ratios.get(name) else 1.0

    def _predicted(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        scale = np.array([self._scale(objective.name) for objective in self._problem.study.objectives])
        return np.asarray(self._losses[rows] * scale)

    def _most_promising(self, promised: NDArray[np.float64]) -> int:
        rows = np.flatnonzero(self._open)
        likely = np.ones(len(rows), dtype=bool)
        for limit in self._problem.study.constraints:
            values = np.array([self._bounds[row][limit.name] for row in rows]) * self._scale(limit.name)
            likely &= (values >= limit.limit) if limit.op == ">=" else (values <= limit.limit)
        if likely.any():
            rows = rows[likely]
        predicted = self._predicted(rows)
        best = np.flatnonzero(non_dominated(predicted))
        best = best[np.lexsort(predicted[best].T[::-1])]
        if len(best) > MAX_CANDIDATES:
            best = best[np.linspace(0, len(best) - 1, MAX_CANDIDATES).round().astype(int)]
        gains = [hypervolume_gain(predicted[row], promised, self._reference) for row in best]
        return int(rows[best[int(np.argmax(gains))]])

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one, and prune what it beats."""
        study = self._problem.study
        for design, outcome in zip(designs, outcomes, strict=True):
            index = self._index[design.key]
            self._open[index] = False
            self._told.add(index)
            if outcome.error is not None or not self._bounded:
                continue
            row = {**design.npu, **outcome.metrics}
            self._check_bound(index, row)
            if any(value > 0 for value in violations(study.constraints, row).values()):
                continue
            point = np.array(losses(study.objectives, row))
            self._front = np.vstack([self._front, point])
            self._front = self._front[non_dominated(self._front)]
            beaten = np.all(point <= self._losses, axis=1) & np.any(point < self._losses, axis=1) & self._open
            for other in np.flatnonzero(beaten):
                self._prune(int(other), "dominated even by its bound")

    def _check_bound(self, index: int, row: Mapping[str, Any]) -> None:
        """Collect how far the simulator stays behind its bounds.

        Raises:
            BittaperError: If it beats one, since everything pruned would then be in doubt.
        """
        for name, bound in self._bounds[index].items():
            if name not in METRICS or name in QUALITY_METRICS or name in EXACT_METRICS or bound == 0:
                continue
            ratio = row[name] / bound
            better = ratio - 1 if METRICS[name].better == "maximize" else 1 - ratio
            if better > TOLERANCE:
                raise BittaperError(
                    f"{name} = {row[name]:.6g} beats its bound {bound:.6g} in {self._designs[index].canonical()}: the "
                    f"bound is wrong, please report this; set sampler: tpe to go on without bounds"
                )
            self._ratios.setdefault(name, []).append(ratio)

    def certificate(self, earlier: Mapping[str, Any] | None) -> dict[str, Any]:
        """Say what was enumerated; if all is settled, first simulate some pruned designs to confirm it.

        Args:
            earlier: The certificate of an earlier run on this record, whose confirmation still holds.

        Returns:
            ``designs`` in the space, ``simulated``, ``pruned`` by reason, ``open`` (neither, since the budget
            ended), ``complete``, ``confirmed`` (pruned designs simulated to check), and the largest ratio of
            bound and simulated value per metric.
        """
        open_designs = int(self._open.sum())
        reasons = Counter(reason.split(":")[0] for index, reason in self._pruned.items() if index not in self._told)
        complete = open_designs == 0
        confirmed = 0 if earlier is None else int(earlier["confirmed"])
        if complete and not confirmed:
            confirmed = self._confirm()
        return {
            "designs": len(self._designs),
            "simulated": len(self._told),
            "pruned": dict(sorted(reasons.items())),
            "open": open_designs,
            "complete": complete,
            "confirmed": confirmed,
            "largest_gap": {
                name: max(max(ratio, 1 / ratio) for ratio in ratios) for name, ratios in sorted(self._ratios.items())
            },
        }

    def _confirm(self) -> int:
        """Simulate pruned designs drawn at random; each must keep to its bound and stay off the front."""
        study = self._problem.study
        rng = np.random.default_rng(study.seed)
        candidates = np.array(sorted(index for index in self._pruned if self._bounds[index]), dtype=np.intp)
        drawn = rng.permutation(candidates)[:CONFIRMATIONS].tolist()
        for index in self._bar(drawn, "confirm"):
            design = self._designs[index]
            try:
                row = {**design.npu, **self._problem.metrics(design)}
            except InputError:
                continue  # what cannot run is not on the front either
            self._check_bound(index, row)
        return len(drawn)
