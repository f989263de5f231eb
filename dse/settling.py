"""Settles every design of an enumeration by hwsim's grid, which evaluates an NPU under all schedules at once.

Bytes over bandwidth rank the designs; a few that promise most are run in full, and what they beat is out. Then the
others are, those first that promise most. Where every single step has to be run (see :mod:`hwsim.decode_spans` for
where not), some steps of each width bound an NPU's designs before, sharply, since steps only take longer as the cache
grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dse.dominance import non_dominated
from dse.enumeration import CANNOT_RUN
from dse.grid_workers import split
from dse.objective import METRICS, QUALITY_METRICS
from dse.settled import look_up

if TYPE_CHECKING:
    from dse.design_grid import Metrics
    from dse.enumeration import Enumeration
    from dse.grid_workers import GridWorkers
    from dse.settled import Settled

SAMPLES = 8
"""Steps of each width that bound a design: they miss about 0.2% of the time of 256 steps of a 7B model."""

BEATEN = "dominated by the roofline bound"
BEATEN_IN_FULL = "dominated when simulated"
BEATEN_BY_SOME = f"dominated by the bound of {SAMPLES} steps of each width"

FIRST_MIXES = 96
"""Mixes of the objectives whose best designs are run before anything else."""

MIXED_AT_ONCE = 1 << 11
"""Designs whose losses are mixed at once, which stay in cache."""

FIRST_NPUS, MORE_NPUS = 1024, 8
"""NPUs run at first, and how many times as many each time after that: what they beat saves running others."""

SLOW_NPUS = 2048
"""NPUs run at a time at most where every step has to be run."""

SIMULATED = METRICS.keys() - set(QUALITY_METRICS)
"""What a simulation gives."""

Rows = NDArray[np.intp]


class Settling:
    """Settles the designs of an enumeration that its grid can evaluate.

    Args:
        enumeration: What is known; it has a grid.
        workers: Evaluate beside this process; null: it does all alone.
        kept: Knows what an earlier run found of NPUs whose every step has to be run; null: nothing is kept.
        progress: Show progress bars.

    Attributes:
        sampled: Designs bounded by some steps.
        simulated: Designs run in full.
    """

    def __init__(
        self, enumeration: Enumeration, workers: GridWorkers | None, kept: Settled | None = None, *, progress: bool
    ) -> None:
        assert enumeration.grid is not None, "only a grid evaluates many designs at once"
        self._all = enumeration
        self._grid = enumeration.grid
        self._workers = workers
        self._kept = kept
        self._progress = progress
        self._sharp = np.zeros(len(enumeration.candidates), dtype=bool)
        self._unbeaten: tuple[Rows, Metrics] = np.empty(0, dtype=np.intp), {}
        self.sampled = 0
        self.simulated = 0

    def sharpen(self, *, slow: bool = False) -> None:
        """Bound what is open by some steps of each width, and prune what the front beats then.

        Args:
            slow: Only the designs whose every step has to be run.
        """
        rows = self._open()
        if slow:
            rows = rows[self._grid.slow[self._grid.npu[rows]]]
        npus = self._npus(rows)
        with self._bar(len(npus), "bounds", "NPU") as bar:
            for start in range(0, len(npus), SLOW_NPUS):
                chosen = npus[start : start + SLOW_NPUS]
                for part, found in self._run(self._of_npus(rows, chosen), SAMPLES):
                    self._all.bound(part, found, f" by {SAMPLES} steps of each width")
                    self._sharp[part] = True
                    self.sampled += len(part)
                bar.update(len(chosen))
        self._prune()

    def settle(self) -> None:
        """Run or prune every design that is open; what is left of them is simulated and not beaten."""
        self._simulate(self._first())
        self.sharpen(slow=True)
        count = FIRST_NPUS
        with self._bar(len(self._npus(self._open())), "fast engine", "NPU") as bar:
            while len(rows := self._open()):
                before = len(self._npus(rows))
                self._simulate(self._of_npus(rows, self._best_npus(rows, count)))
                count *= MORE_NPUS
                bar.update(before - len(self._npus(self._open())))

    def find(self, rows: Rows) -> tuple[Rows, Metrics]:
        """Look up designs that were run in full and that nothing beats.

        Args:
            rows: Places in the enumeration.

        Returns:
            The places in ``rows`` of those whose every metric is known (not of those of which the log has kept a few
            metrics only), and their metrics, quality aside.
        """
        known, metrics = self._unbeaten
        found, at = look_up(known, rows)
        return found, {name: values[at] for name, values in metrics.items()}

    def _open(self) -> Rows:
        """What is neither pruned nor simulated."""
        return np.flatnonzero(self._all.open & ~self._all.known & self._grid.gridded)

    def _of_npus(self, rows: Rows, npus: Rows) -> Rows:
        wanted = np.zeros(len(self._grid.table), dtype=bool)
        wanted[npus] = True
        return rows[wanted[self._grid.npu[rows]]]

    def _npus(self, rows: Rows) -> Rows:
        """NPUs of some designs, each once."""
        wanted = np.zeros(len(self._grid.table), dtype=bool)
        wanted[self._grid.npu[rows]] = True
        return np.flatnonzero(wanted)

    def _best_npus(self, rows: Rows, count: int) -> Rows:
        """NPUs of the designs that promise most; of those whose every step has to be run, not too many at once."""
        losses = self._all.losses[rows]
        low, high = losses.min(axis=0), losses.max(axis=0)
        spans = np.subtract(high, low, out=np.ones(len(low)), where=np.isfinite(low) & (high > low))
        promise = np.full(len(self._grid.table), np.inf)
        np.minimum.at(promise, self._grid.npu[rows], (losses / spans).sum(axis=1))
        npus = self._npus(rows)
        best = npus[np.argsort(promise[npus], kind="stable")[:count]]
        return best[:SLOW_NPUS] if self._grid.slow[best].any() else best

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
        least, best = np.full(len(mixes), np.inf), np.zeros(len(mixes), dtype=np.intp)
        for start in range(0, len(rows), MIXED_AT_ONCE):
            mixed = mixes @ shares[start : start + MIXED_AT_ONCE].T
            place = mixed.argmin(axis=1)
            found = mixed[np.arange(len(mixes)), place]
            best[found < least] = start + place[found < least]
            least = np.minimum(least, found)
        return self._of_npus(rows, self._npus(rows[best]))

    def _run(self, rows: Rows, samples: int | None) -> Iterator[tuple[Rows, Metrics]]:
        """Some of the designs at a time with their metrics; those that cannot run are pruned, their numbers are NaN."""
        parts = self._parts(rows, samples) if self._kept is None else self._kept_parts(self._kept, rows, samples)
        for places, found in parts:
            part = rows[places]
            self._all.prune(part[np.isnan(found["e2e_s"])], CANNOT_RUN)
            yield part, found

    def _parts(self, rows: Rows, samples: int | None) -> Iterator[tuple[Rows, Metrics]]:
        """Evaluate designs; gives their places in ``rows`` with their metrics."""
        if self._workers is None:
            yield np.arange(len(rows)), self._grid.metrics(rows, samples)
        else:
            yield from self._workers.metrics(self._grid, rows, samples)

    def _kept_parts(self, kept: Settled, rows: Rows, samples: int | None) -> Iterator[tuple[Rows, Metrics]]:
        """The same, with what takes long looked up first, and kept part by part as it is found."""
        slow = self._grid.slow[self._grid.npu[rows]]
        if (~slow).any():
            fast = np.flatnonzero(~slow)
            for places, found in self._parts(rows[fast], samples):
                yield fast[places], found
        left = np.flatnonzero(slow)
        if not len(left):
            return
        names = {"e2e_s", *self._all.names}
        known, metrics = kept.find(rows[left], samples, lambda few: self._grid.metrics(few, samples))
        if len(known):
            yield left[known], metrics
        left = np.delete(left, known)
        # Alone as with workers: a part at a time, so that no more than one is lost.
        parts = (
            [left]
            if self._workers is not None
            else [left[one] for one in split(self._grid, self._grid.npu[rows[left]])]
        )
        for part in parts if len(left) else []:
            for places, found in self._parts(rows[part], samples):
                kept.add(rows[part[places]], samples, {name: found[name] for name in found if name in names})
                yield part[places], found

    def _simulate(self, rows: Rows) -> None:
        """Run designs in full, and let those on the front beat others."""
        everything = self._all
        if not len(rows):
            return
        parts = [self._unbeaten]
        for part, found in self._run(rows, None):
            runs = np.flatnonzero(everything.open[part])
            able = part[runs]
            everything.simulated(able, {name: values[runs] for name, values in found.items()})
            self.simulated += len(able)
            feasible = everything.feasible(able)
            everything.prune_infeasible(able[~feasible])
            # What is beaten here need not be compared with all others; meanwhile workers evaluate the next parts.
            good = able[feasible]
            everything.prune(good[~non_dominated(everything.losses[good])], BEATEN_IN_FULL)
            if found.keys() >= SIMULATED:
                parts.append(self._open_of(part, found))
        everything.renew_front(BEATEN_IN_FULL)
        self._prune()
        self._unbeaten = self._open_of(*_joined(parts))

    def _open_of(self, rows: Rows, metrics: Metrics) -> tuple[Rows, Metrics]:
        """Those of some designs that are not pruned."""
        left = self._all.open[rows]
        return rows[left], {name: values[left] for name, values in metrics.items()}

    def _prune(self) -> None:
        """Leave out what even its bound does not save from the front."""
        rows = self._open()
        sharp = self._sharp[rows]
        self._all.prune_beaten(rows[~sharp], self._all.front, BEATEN)
        self._all.prune_beaten(rows[sharp], self._all.front, BEATEN_BY_SOME)

    def _bar(self, total: int, title: str, unit: str) -> tqdm[Any]:
        return tqdm(total=total, desc=title, unit=unit, disable=not self._progress, leave=False, dynamic_ncols=True)


def _joined(parts: Sequence[tuple[Rows, Metrics]]) -> tuple[Rows, Metrics]:
    """Designs of several parts with their metrics, in ascending order."""
    rows = np.concatenate([part for part, _ in parts])
    order = np.argsort(rows)
    found = [metrics for _, metrics in parts if metrics]
    names = found[0] if found else {}
    return rows[order], {name: np.concatenate([metrics[name] for metrics in found])[order] for name in names}
