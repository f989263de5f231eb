"""Enumeration of a finite space: bounds choose what to simulate next and prove what need not be.

Without a budget, everything that hwsim's grid can evaluate is settled by it (see :mod:`dse.settling`), and the designs
that nothing beats become trials. With a budget, or where designs are simulated one by one, what is open is simulated in
the order of the hypervolume that it promises, with bounds scaled by how far the simulator stayed behind them so far.
When nothing is left the front is exact: it equals that of simulating every design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dse.confirm import confirm, is_enough
from dse.dominance import by_promise, dominated, non_dominated
from dse.enumeration import CHOSEN, TOLD, Enumeration
from dse.evaluation import Numbered, judge
from dse.grid_workers import GridWorkers
from dse.log import Batch, Outcome
from dse.pareto import hypervolume_gain
from dse.problem import Problem
from dse.related import Related
from dse.settled import Settled
from dse.settling import Settling
from dse.space import Design

BEATEN = "dominated even by its bound"

SHARED_DESIGNS = 200_000
"""Designs from which more processes are worth the second or two that each takes to start."""

MAX_CANDIDATES = 64
"""Designs whose promised hypervolume is computed for each choice, spread over the promised front."""

POOL = 4096
"""Open designs that promise most, among which choices are made until as many were simulated as before the pool."""


class EnumeratedSearch:
    """Goes through every design of a space.

    Args:
        problem: What is explored; its space is finite.
        bounded: Prune and order by bounds; else every design is simulated, in a random order.
        progress: Show progress bars.
        spec: A pickled :class:`dse.evaluation.WorkerSpec`, for more processes to settle a large space.
        workers: Processes, this one included.
        kept: Knows what an earlier run settled, where that takes long.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        bounded: bool,
        progress: bool,
        spec: bytes | None = None,
        workers: int = 1,
        kept: Settled | None = None,
    ) -> None:
        self._problem = problem
        self._bounded = bounded
        self._progress = progress
        self._kept = kept
        self._processes = workers
        shared = bounded and problem.gridded and (problem.space.size() or 0) >= SHARED_DESIGNS
        self._workers = GridWorkers(spec, workers - 1) if shared and spec is not None and workers > 1 else None
        try:
            self._all = Enumeration(problem, bounded=bounded)
        except BaseException:
            self._end_workers()
            raise
        count = len(self._all.candidates)
        self._order = np.random.default_rng(problem.study.seed).permutation(count)
        self._asked: dict[str, int] = {}
        self._settling: Settling | None = None
        self._settled = self._pool = np.empty(0, dtype=np.intp)
        self._pool_age = 0
        self._told = 0
        self._unknown = 0
        if bounded:
            known = self._all.losses[self._all.open]
            known = np.where(np.isfinite(known), known, 0.0)  # nothing bounds an objective in its worse direction
            worst, best = known.max(axis=0, initial=-np.inf), known.min(axis=0, initial=np.inf)
            # A tenth beyond the worst, so that designs at the edge promise some volume too.
            span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
            self._reference = worst + 0.1 * span

    def next_batch(self, first: int, count: int) -> Batch:
        """Choose up to ``count`` designs; fewer, or none, when nothing is left."""
        self._begin()
        chosen: list[int] = []
        promised = self._all.front
        while len(chosen) < count and (found := self._choose(promised, count - len(chosen))):
            self._all.state[found] = CHOSEN
            chosen += found
            if self._bounded and len(chosen) < count:
                # Until its outcome is known, a chosen design is believed to keep its promise.
                promised = np.vstack([promised, self._predicted(np.array(found))])
        designs = []
        for index in chosen:
            design = self._all.candidates.design(index)
            self._asked[design.key] = index
            designs.append(design.canonical())
        return Batch(first, first + len(chosen), 0, designs, [None] * len(chosen))

    def settle(self) -> dict[str, int]:
        """Settle or sharpen by the grid what it can evaluate, as the first choice does.

        Returns:
            ``npus`` of the space, designs bounded by ``some_steps``, designs run with ``all_steps``, and how many are
            left that nothing beats.
        """
        self._begin()
        settling, grid = self._settling, self._all.grid
        left = int(self._all.open.sum())
        if settling is None or grid is None:
            return {"npus": 0, "some_steps": 0, "all_steps": 0, "left": left}
        return {
            "npus": len(grid.table),
            "some_steps": settling.sampled,
            "all_steps": settling.simulated,
            "left": left,
        }

    def _begin(self) -> None:
        if self._all.grid is None or self._settling is not None:
            return
        self._settling = Settling(self._all, self._workers, self._kept, progress=self._progress)
        try:
            if self._problem.study.budget is None:
                self._settling.settle()
            else:
                self._settling.sharpen()
                self._pool = self._pool[:0]
        finally:
            self._end_workers()
        left = np.flatnonzero(self._all.open & ~self._all.known)
        self._all.prune_beaten(left, self._all.front, BEATEN)
        settled = np.flatnonzero(self._all.open & self._all.known)
        self._settled = settled[by_promise(self._all.losses[settled])]

    def _end_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()

    def _choose(self, promised: NDArray[np.float64], count: int) -> list[int]:
        rows = np.flatnonzero(self._all.open)
        if not len(rows):
            return []
        if not self._bounded:
            return [int(index) for index in self._order[self._all.open[self._order]][:count]]
        settled = self._settled[self._all.open[self._settled]]
        if len(settled):
            return [int(index) for index in settled[:count]]
        return [self._most_promising(promised)]

    def _predicted(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        scale = np.array([self._all.scale(objective.name) for objective in self._problem.study.objectives])
        return np.asarray(np.where(self._all.known[rows, None], 1.0, scale) * self._all.losses[rows])

    def _most_promising(self, promised: NDArray[np.float64]) -> int:
        rows = self._pool[self._all.open[self._pool]]
        if not len(rows) or self._told >= 2 * self._pool_age:
            rows = self._fill_pool()
        predicted = self._predicted(rows)
        fresh = ~dominated(predicted, promised)
        if fresh.any():
            rows, predicted = rows[fresh], predicted[fresh]
        best = np.flatnonzero(non_dominated(predicted))
        best = best[np.lexsort(predicted[best].T[::-1])]
        if len(best) > MAX_CANDIDATES:
            best = best[np.linspace(0, len(best) - 1, MAX_CANDIDATES).round().astype(int)]
        gains = [hypervolume_gain(predicted[row], promised, self._reference) for row in best]
        return int(rows[best[int(np.argmax(gains))]])

    def _fill_pool(self) -> NDArray[np.intp]:
        """Open designs that promise most, of those that are likely to keep the limits if there are any."""
        rows = np.flatnonzero(self._all.open)
        likely = np.ones(len(rows), dtype=bool)
        for limit in self._problem.study.constraints:
            values = self._all.values[limit.name][rows] * self._all.scale(limit.name)
            likely &= (values >= limit.limit) if limit.op == ">=" else (values <= limit.limit)
        if likely.any():
            rows = rows[likely]
        if len(rows) > POOL:
            predicted = self._predicted(rows)
            fresh = np.flatnonzero(~dominated(predicted, self._all.front))
            front = fresh[non_dominated(predicted[fresh])]
            behind = np.setdiff1d(np.arange(len(rows)), front)
            behind = behind[by_promise(predicted[behind])]
            rows = rows[np.concatenate([front, behind])[:POOL]]
        self._pool, self._pool_age = np.sort(rows), max(1, self._told)
        return self._pool

    def settled(self, numbered: Sequence[Numbered]) -> list[Outcome]:
        """Outcomes of those designs that settling has run in full: they need not be simulated again for the record.

        Args:
            numbered: Chosen designs with their trial numbers, of this run or an earlier one.
        """
        if not numbered:
            return []
        self._begin()
        if self._settling is None:
            return []
        found, metrics = self._settling.find(self._places([design for _, design in numbered]))
        columns = [values.tolist() for values in metrics.values()]
        outcomes = []
        for place, values in zip(found.tolist(), zip(*columns, strict=True), strict=True):
            number, design = numbered[place]
            row = self._problem.with_quality(design, dict(zip(metrics, values, strict=True)))
            outcomes.append(judge(self._problem, number, design, row))
        return outcomes

    def _places(self, designs: Sequence[Design]) -> NDArray[np.intp]:
        """Where designs stand in the enumeration; those that an earlier run chose are searched for."""
        asked = [self._asked.get(design.key) for design in designs]
        unknown = [design for design, index in zip(designs, asked, strict=True) if index is None]
        located = iter(self._all.candidates.indices(unknown).tolist() if unknown else [])
        return np.array([next(located) if index is None else index for index in asked], dtype=np.intp)

    def tell(self, batch: Batch, designs: Sequence[Design], outcomes: Sequence[Outcome]) -> None:
        """Learn what came of a batch, of this run or an earlier one, and prune what it beats."""
        everything = self._all
        self._begin()  # before anything is learnt, so that a resumed run finds what the first one found
        told: list[int] = []
        values: list[dict[str, Any]] = []
        places = self._places(designs)
        for design, index, outcome in zip(designs, places.tolist(), outcomes, strict=True):
            self._asked.pop(design.key, None)
            everything.state[index] = TOLD
            self._told += 1
            self._unknown += outcome.unknown
            if outcome.error is None:
                told.append(index)
                values.append({**design.npu, **outcome.metrics})
        rows = np.array(told, dtype=np.intp)
        if not len(rows):
            return
        news = rows[~everything.known[rows]]
        everything.simulated(rows, {name: np.array([float(one[name]) for one in values]) for name in everything.names})
        if not self._bounded or not len(news):
            return
        points = everything.add_to_front(news[everything.feasible(news)])
        if len(points):
            everything.prune_beaten(np.flatnonzero(everything.open), points, BEATEN)

    def why_nothing(self) -> str:
        """Why no design became a trial: which limit stops all, and by how much."""
        return self._all.why_hopeless()

    def certificate(self, earlier: Mapping[str, Any] | None, related: Related | None = None) -> dict[str, Any]:
        """Say what was enumerated; if all is settled, first confirm it on the event engine.

        Args:
            earlier: The certificate of an earlier run on this record, whose confirmation still holds.
            related: What related explorations know of that engine.

        Returns:
            ``designs`` in the space; ``simulated``: those that are trials; ``pruned`` by reason; ``open``: neither,
            since the budget ended or they could not be evaluated; ``complete``; ``kept``: trials on the front;
            ``evaluated``: how many designs were bounded by some steps and run in full by the grid; ``confirmed`` (see
            :func:`dse.confirm.confirm`; null unless complete); ``largest_gap``: largest ratio of the sharpest bound
            and the simulated value, by metric.
        """
        everything = self._all
        left = int(everything.open.sum()) + self._unknown
        told = np.flatnonzero((everything.state == TOLD) & everything.known)
        told = told[everything.feasible(told)] if len(told) else told
        kept = told[non_dominated(everything.losses[told])]
        confirmed = None if earlier is None else earlier["confirmed"]
        if left == 0 and (confirmed is None or not is_enough(confirmed, everything, kept)):
            known = None if related is None else related.confirmed
            confirmed = confirm(everything, kept, workers=self._processes, progress=self._progress, known=known)
        settling = self._settling
        gaps = dict(everything.largest_gap)
        for name, gap in ({} if earlier is None else earlier["largest_gap"]).items():
            gaps[name] = max(gap, gaps.get(name, gap))  # a confirmation that still holds saw some of them
        return {
            "designs": len(everything.candidates),
            "simulated": int((everything.state == TOLD).sum()) - self._unknown,
            "kept": len(kept),
            "pruned": everything.reasons(),
            "open": left,
            "complete": left == 0,
            "evaluated": {
                "some_steps": 0 if settling is None else settling.sampled,
                "all_steps": 0 if settling is None else settling.simulated,
            },
            "confirmed": confirmed,
            "largest_gap": dict(sorted(gaps.items())),
        }
