"""Chooses what to simulate in full: the designs that promise the most hypervolume, corrected by what was seen.

The promises come from a pool made on the levels below (:mod:`dse.proposals`). Each full simulation says by how much
they were wrong; the median ratio corrects every metric. Nothing but the study's seed and the record decides, so a
resumed run chooses as the other would have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.bounds import EXACT_METRICS
from dse.dominance import non_dominated
from dse.log import Batch, Outcome
from dse.objective import METRICS, QUALITY_METRICS, losses, violation, violations
from dse.pareto import hypervolume_subset
from dse.proposals import make_pool
from dse.samplers import suggestion_seed
from dse.screening import Screen, reference_losses
from dse.starts import enqueued
from dse.suggest import random_unseen

if TYPE_CHECKING:
    from dse.problem import Problem
    from dse.space import Design


class ScreenedSearch:
    """Chooses designs by what bounds and short traces promise.

    Args:
        problem: What is explored; :func:`dse.screening.can_screen` holds.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._screen = Screen(problem)
        self._starts = enqueued(problem)
        self._pool = make_pool(problem, self._screen, self._starts)
        self._promised = {design.key: row for design, row in zip(self._pool.designs, self._pool.rows, strict=True)}
        self._keys = [design.key for design in self._pool.designs]
        study = problem.study
        self._names = [objective.name for objective in study.objectives]
        self._losses = self._pool.losses
        self._reference = reference_losses(study, self._losses)
        self._seen: set[str] = set()
        self._front = np.empty((0, len(self._names)))
        self._ratios: defaultdict[str, list[float]] = defaultdict(list)
        self.suggestions = 0

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs; fewer, or none, when the space is exhausted."""
        chosen: list[Design] = []
        while self._starts and len(chosen) < count:
            start = self._starts.pop(0)
            if start.key not in self._seen:
                self._take(start, chosen)
        self._choose_promising(count, chosen)
        while len(chosen) < count:
            unseen = random_unseen(self._problem.space, self._seen, suggestion_seed(self._problem.study.seed, first))
            if unseen is None:
                break
            self._take(unseen, chosen)
        self.suggestions = first + len(chosen)
        levels = {"bound": self._screen.levels.bound, "short trace": self._screen.levels.short}
        canonical = [design.canonical() for design in chosen]
        return Batch(first, self.suggestions, 0, canonical, [None] * len(chosen), levels)

    def _take(self, design: Design, chosen: list[Design]) -> None:
        self._seen.add(design.key)
        chosen.append(design)

    def _choose_promising(self, count: int, chosen: list[Design]) -> None:
        """Greedily take what adds most to the front, each choice believed to keep its promise; then what is near it."""
        rows = np.array([row for row, key in enumerate(self._keys) if key not in self._seen], dtype=np.intp)
        likely = self._likely()[rows]
        rows = rows[likely] if likely.any() else rows
        points = self._losses[rows] * np.array([self._scale(name) for name in self._names])
        taken = hypervolume_subset(points, self._front, self._reference, count - len(chosen))
        left = np.setdiff1d(np.arange(len(rows)), taken)
        nearest = left[np.argsort(self._distances(points[left]), kind="stable")]
        for place in [*taken, *nearest.tolist()][: count - len(chosen)]:
            self._take(self._pool.designs[rows[place]], chosen)

    def _distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """By how much of the range each point would have to improve to be on the front, ``[points]``."""
        span = np.ptp(np.vstack([self._front, points]), axis=0) if len(points) else np.ones(len(self._names))
        span = np.where(span > 0, span, 1.0)
        least = np.full(len(points), np.inf)
        for other in self._front:
            least = np.minimum(least, ((points - other) / span).max(axis=1))
        return least

    def _scale(self, name: str) -> float:
        """Typical ratio of a simulated metric to its promise."""
        return float(np.median(self._ratios[name])) if self._ratios.get(name) else 1.0

    def _likely(self) -> NDArray[np.bool_]:
        """Which of the pool should keep every limit."""
        likely = np.ones(len(self._keys), dtype=bool)
        for limit in self._problem.study.constraints:
            scale = self._scale(limit.name)
            likely &= np.array([violation(limit, row[limit.name] * scale) <= 0 for row in self._pool.rows], dtype=bool)
        return likely

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one."""
        study = self._problem.study
        self.suggestions = batch.suggestions
        for design, outcome in zip(designs, outcomes, strict=True):
            self._seen.add(design.key)
            if outcome.error is not None:
                continue
            row = {**design.npu, **outcome.metrics}
            self._compare(self._promised.get(design.key, {}), row)
            if all(value <= 0 for value in violations(study.constraints, row).values()):
                self._front = np.vstack([self._front, losses(study.objectives, row)])
                self._front = self._front[non_dominated(self._front)]

    def _compare(self, promised: dict[str, Any], row: dict[str, Any]) -> None:
        for name, value in promised.items():
            if name in METRICS and name not in QUALITY_METRICS and name not in EXACT_METRICS and value != 0:
                self._ratios[name].append(row[name] / value)
