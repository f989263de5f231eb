"""Settles every design of an enumeration by hwsim's grid: bounds of rising cost, and what is left by the fast engine.

Bytes over bandwidth rank the designs; a few that promise most are run in full, and what they beat is out. Some steps
of each width bound what is left sharply, since steps only take longer as the cache grows. What even that leaves open
is run in full, those first that promise most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dse.enumeration import CANNOT_RUN

if TYPE_CHECKING:
    from dse.design_grid import Metrics
    from dse.enumeration import Enumeration

SAMPLES = 8
"""Steps of each width that bound a design: they miss about 0.2% of the time of 256 steps of a 7B model."""

BEATEN_BY_SOME = f"dominated by the bound of {SAMPLES} steps of each width"

FIRST_MIXES = 96
"""Mixes of the objectives whose best designs are run before anything else."""

FIRST_NPUS, MAX_NPUS = 128, 2048
"""NPUs run in full at a time, at first and at most: what they beat saves running others."""

BOUNDED_NPUS = 8192
"""NPUs bounded at a time."""

Rows = NDArray[np.intp]


class Settling:
    """Settles the designs of an enumeration that its grid can evaluate.

    Args:
        enumeration: What is known; it has a grid.
        progress: Show progress bars.

    Attributes:
        sampled: Designs bounded by some steps.
        simulated: Designs run in full.
    """

    def __init__(self, enumeration: Enumeration, *, progress: bool) -> None:
        assert enumeration.grid is not None, "only a grid evaluates many designs at once"
        self._all = enumeration
        self._grid = enumeration.grid
        self._progress = progress
        self.sampled = 0
        self.simulated = 0

    def sharpen(self) -> None:
        """Bound what is open by some steps of each width, and prune what the front beats then."""
        rows = self._open()
        npus = np.unique(self._grid.npu[rows])
        with self._bar(len(npus), "bounds", "NPU") as bar:
            for start in range(0, len(npus), BOUNDED_NPUS):
                chosen = npus[start : start + BOUNDED_NPUS]
                part = self._of_npus(rows, chosen)
                found = self._run(part, SAMPLES)
                self._all.bound(part, found, f" by {SAMPLES} steps of each width")
                self.sampled += len(part)
                bar.update(len(chosen))
        self._prune(BEATEN_BY_SOME, self._all.front)

    def settle(self) -> None:
        """Run or prune every design that is open; what is left of them is simulated and not beaten."""
        self._simulate(self._first())
        self._prune("dominated by the roofline bound", self._all.front)
        self.sharpen()
        count = FIRST_NPUS
        with self._bar(len(np.unique(self._grid.npu[self._open()])), "fast engine", "NPU") as bar:
            while before := len(np.unique(self._grid.npu[self._open()])):
                self._simulate_best(count)
                count = min(2 * count, MAX_NPUS)
                bar.update(before - len(np.unique(self._grid.npu[self._open()])))
        left = np.flatnonzero(self._all.known & self._all.open)
        self._all.prune_beaten(left, self._all.front, "dominated when simulated")

    def _simulate_best(self, count: int) -> None:
        """Run the open designs of the NPUs that promise most, and prune what they beat."""
        rows = self._open()
        if len(rows):
            points = self._simulate(self._of_npus(rows, self._best_npus(rows, count)))
            self._prune(BEATEN_BY_SOME, points)

    def _open(self) -> Rows:
        """What is neither pruned nor simulated."""
        return np.flatnonzero(self._all.open & ~self._all.known & self._grid.gridded)

    def _of_npus(self, rows: Rows, npus: Rows) -> Rows:
        wanted = np.zeros(len(self._grid.table), dtype=bool)
        wanted[npus] = True
        return rows[wanted[self._grid.npu[rows]]]

    def _best_npus(self, rows: Rows, count: int) -> Rows:
        """NPUs of the designs that promise most."""
        losses = self._all.losses[rows]
        low, high = losses.min(axis=0), losses.max(axis=0)
        spans = np.subtract(high, low, out=np.ones(len(low)), where=np.isfinite(low) & (high > low))
        promise = (losses / spans).sum(axis=1)
        npus, first = np.unique(self._grid.npu[rows[np.argsort(promise, kind="stable")]], return_index=True)
        return npus[np.argsort(first)[:count]]

    def _first(self) -> Rows:
        """Open designs of the NPUs that are best for some mix of the objectives, if bounds were what they seem."""
        rows = self._open()
        losses = self._all.losses[rows]
        losses = losses[:, np.isfinite(losses).all(axis=0)]
        if not losses.size:
            return rows[:0]
        low, high = losses.min(axis=0), losses.max(axis=0)
        shares = (losses - low) / np.where(high > low, high - low, 1.0)
        rng = np.random.default_rng(self._all.problem.study.seed)
        mixes = rng.dirichlet(np.ones(losses.shape[1]), FIRST_MIXES)
        best = np.unique([int(np.argmin(shares @ mix)) for mix in mixes])
        return self._of_npus(rows, np.unique(self._grid.npu[rows[best]]))

    def _run(self, rows: Rows, samples: int | None) -> Metrics:
        """Metrics of some designs; those that cannot run are pruned, and their numbers are NaN."""
        found = self._grid.metrics(rows, samples)
        self._all.prune(rows[np.isnan(found["e2e_s"])], CANNOT_RUN)
        return found

    def _simulate(self, rows: Rows) -> NDArray[np.float64]:
        """Run designs in full; returns the losses of those that are on the front now."""
        everything = self._all
        if not len(rows):
            return everything.front[:0]
        found = self._run(rows, None)
        runs = np.flatnonzero(everything.open[rows])
        rows = rows[runs]
        everything.simulated(rows, {name: values[runs] for name, values in found.items()})
        self.simulated += len(rows)
        feasible = everything.feasible(rows)
        everything.prune_infeasible(rows[~feasible])
        return everything.add_to_front(rows[feasible])

    def _prune(self, reason: str, points: NDArray[np.float64]) -> None:
        if len(points):
            self._all.prune_beaten(self._open(), points, reason)

    def _bar(self, total: int, title: str, unit: str) -> tqdm[Any]:
        return tqdm(total=total, desc=title, unit=unit, disable=not self._progress, leave=False, dynamic_ncols=True)
