"""The constrained Pareto front, and its hypervolume as trials come in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume, get_non_dominated_box_bounds  # not public: the pin >=5,<6

GAINS_AT_ONCE = 128
"""Points whose shares of all boxes are held at once."""


CELLS = 1 << 22
"""Entries of a table of thresholds."""

COMPARED_AT_ONCE = 1 << 20
"""Pairs of points compared at the same time, which stay in cache."""

BLOCK = 512
"""Points that are compared each with each at a time."""

FIRST_BLOCKS = (BLOCK, 16 * BLOCK)
"""Points that promise most, which most of the others are compared with only."""

WORTH_A_TABLE = 8
"""Comparisons that cost as much as making or looking up one entry of a table."""


def dominated(points: ArrayLike, others: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that one of ``others`` dominates: is nowhere worse than and somewhere better.

    Args:
        points: ``[points, objectives]``, less is better.
        others: ``[others, objectives]``, those first that dominate most.

    Returns:
        ``[points]`` mask.
    """
    left, rivals = np.asarray(points, dtype=float), np.asarray(others, dtype=float)
    mask = np.zeros(len(left), dtype=bool)
    rows = np.arange(len(left))
    start, few = 0, 8  # few first: most points are dominated by many
    while start < len(rivals) and len(rows):
        table, count = _largest_table(rivals[start:], len(rows))
        if table is None:
            count, few = few, min(4 * few, BLOCK)
        beaten = _beaten(left, rivals[start : start + count]) if table is None else table.beats(left)
        mask[rows[beaten]] = True
        left, rows = left[~beaten], rows[~beaten]
        start += count
    return mask


def _beaten(points: NDArray[np.float64], rivals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As :func:`dominated`, each compared with each."""
    found = np.zeros(len(points), dtype=bool)
    at_once = max(1, COMPARED_AT_ONCE // len(rivals))
    for start in range(0, len(points), at_once):
        part = points[start : start + at_once]
        nowhere_worse = np.ones((len(part), len(rivals)), dtype=bool)
        somewhere_better = np.zeros_like(nowhere_worse)
        for mine, theirs in zip(part.T, rivals.T, strict=True):
            nowhere_worse &= theirs <= mine[:, None]
            somewhere_better |= theirs < mine[:, None]
        found[start : start + at_once] = (nowhere_worse & somewhere_better).any(axis=1)
    return found


class _Thresholds:
    """The least loss in one objective among the rivals that are no worse in all others.

    Args:
        rivals: ``[rivals, objectives]``.
        levels: Values that occur in each objective.
    """

    def __init__(self, rivals: NDArray[np.float64], levels: list[NDArray[np.float64]]) -> None:
        self._free = max(range(len(levels)), key=lambda column: len(levels[column]))
        self._levels = {column: values for column, values in enumerate(levels) if column != self._free}
        # The first entry of each axis is for what is better than every rival.
        self._table = np.full([len(values) + 1 for values in self._levels.values()], np.inf)
        place = tuple(np.searchsorted(values, rivals[:, column]) + 1 for column, values in self._levels.items())
        np.minimum.at(self._table, place, rivals[:, self._free])
        for axis in range(self._table.ndim):
            np.minimum.accumulate(self._table, axis=axis, out=self._table)

    def covers(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Than which points some rival is nowhere worse."""
        place = [np.searchsorted(values, points[:, column], "right") for column, values in self._levels.items()]
        return np.asarray(self._table[tuple(place)] <= points[:, self._free])

    def beats(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points some rival dominates."""
        free = points[:, self._free]
        place = [np.searchsorted(values, points[:, column], "right") for column, values in self._levels.items()]
        least = self._table[tuple(place)]
        beaten = least < free
        # As good as a rival in the one objective, a point is beaten if one is better in another.
        level = np.flatnonzero(least == free)
        for axis, (column, values) in enumerate(self._levels.items()):
            nearer = [one[level] for one in place]
            nearer[axis] = np.searchsorted(values, points[level, column], "left")
            beaten[level] |= self._table[tuple(nearer)] <= free[level]
        return np.asarray(beaten)


def _largest_table(rivals: NDArray[np.float64], points: int) -> tuple[_Thresholds | None, int]:
    """Thresholds of as many of the first rivals as a table has room for, and how many.

    None where comparing ``points`` points with each rival costs less, or is done at once.
    """
    count = len(rivals)
    while count * points > COMPARED_AT_ONCE and rivals.shape[1] > 1:
        levels = [np.unique(column) for column in rivals[:count].T]
        cells = math.prod(sorted(len(values) + 1 for values in levels)[:-1])
        if cells <= CELLS and WORTH_A_TABLE * (cells + points) < count * points:
            return _Thresholds(rivals[:count], levels), count
        count //= 2
    return None, 0


def by_promise(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order in which no point comes behind one that it dominates: by the sum of losses as shares of their spans."""
    low, high = losses.min(axis=0, initial=np.inf), losses.max(axis=0, initial=-np.inf)
    spans = np.subtract(high, low, out=np.ones(len(low)), where=np.isfinite(low) & np.isfinite(high) & (high > low))
    return np.lexsort((*losses.T[::-1], (losses / spans).sum(axis=1)))


def non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another if it is nowhere worse and somewhere better; of equal points all are kept.

    Args:
        losses: ``[points, objectives]``, less is better.

    Returns:
        ``[points]`` mask.
    """
    points = np.asarray(losses, dtype=float)
    mask = np.zeros(len(points), dtype=bool)
    if len(points) == 0:
        return mask
    table, count = _largest_table(points, len(points))
    if table is not None and count == len(points):
        return ~table.beats(points)
    left = by_promise(points)
    for first in FIRST_BLOCKS:
        best = points[left[:first]]
        left = left[~dominated(points[left], best[_split_and_compare(best)])]
    mask[left] = _split_and_compare(points[left])
    return mask


def _split_and_compare(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As :func:`non_dominated`, in halves by the objective with the most levels."""
    if not len(points):
        return np.zeros(0, dtype=bool)
    split = max(range(points.shape[1]), key=lambda column: len(np.unique(points[:, column])))
    ranked, place = np.unique(np.roll(points, -split, axis=1), axis=0, return_inverse=True)
    return _best(ranked)[place.reshape(-1)]


def _best(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As :func:`non_dominated`, of points that differ and are sorted by their first objective, then the others.

    Of two halves, the first is nowhere worse in that objective, so that only the others decide between them: of these
    often all but one have few levels.
    """
    if len(points) <= BLOCK:
        return ~_beaten(points, points)
    half = len(points) // 2
    mask = np.concatenate([_best(points[:half]), _best(points[half:])])
    behind = half + np.flatnonzero(mask[half:])
    mask[behind] = ~_covered(points[behind, 1:], points[:half][mask[:half], 1:])
    return mask


def _covered(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the points than which one of ``others`` is nowhere worse."""
    mask = np.zeros(len(points), dtype=bool)
    rows = np.arange(len(points))
    rivals = others[by_promise(others)]
    while len(rivals) and len(rows):
        table, count = _largest_table(rivals, len(rows))
        if table is None:
            count = BLOCK
        part = points[rows]
        covered = _nowhere_worse(part, rivals[:count]) if table is None else table.covers(part)
        mask[rows[covered]] = True
        rows, rivals = rows[~covered], rivals[count:]
    return mask


def _nowhere_worse(points: NDArray[np.float64], rivals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As :func:`_covered`, each compared with each."""
    found = np.zeros(len(points), dtype=bool)
    at_once = max(1, COMPARED_AT_ONCE // len(rivals))
    for start in range(0, len(points), at_once):
        part = points[start : start + at_once]
        covers = np.ones((len(part), len(rivals)), dtype=bool)
        for mine, theirs in zip(part.T, rivals.T, strict=True):
            covers &= theirs <= mine[:, None]
        found[start : start + at_once] = covers.any(axis=1)
    return found


def pareto_indices(losses: ArrayLike, feasible: ArrayLike) -> NDArray[np.intp]:
    """Indices of the non-dominated feasible points, by first objective, then the next ones, then index.

    Args:
        losses: ``[points, objectives]``, less is better.
        feasible: ``[points]``.
    """
    points = np.asarray(losses, dtype=float)
    candidates = np.flatnonzero(np.asarray(feasible, dtype=bool))
    front = candidates[non_dominated(points[candidates])]
    keys = [front, *points[front].T[::-1]]
    return front[np.lexsort(keys)]


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume between the points and the reference point.

    Args:
        losses: ``[points, objectives]``, less is better; points beyond the reference count nothing.
        reference: ``[objectives]``, the worst losses that count.

    >>> hypervolume([[0.0, 1.0], [1.0, 0.0]], [2.0, 2.0])
    3.0
    """
    points = np.asarray(losses, dtype=float)
    corner = np.asarray(reference, dtype=float)
    if len(points) == 0:
        return 0.0
    points = points[np.all(points < corner, axis=1)]
    return float(compute_hypervolume(points, corner)) if len(points) else 0.0


def hypervolume_gain(point: ArrayLike, front: ArrayLike, reference: ArrayLike) -> float:
    """Volume that ``point`` adds to ``front``: its own box less what the front takes of it.

    Args:
        point: ``[objectives]``, less is better.
        front: ``[points, objectives]``.
        reference: ``[objectives]``.

    Source: While et al., "A Fast Way of Calculating Exact Hypervolumes", Eq. (6).
    """
    corner, added = np.asarray(reference, dtype=float), np.asarray(point, dtype=float)
    if np.any(added >= corner):
        return 0.0
    limited = np.maximum(np.asarray(front, dtype=float), added)
    limited = limited[non_dominated(limited)]
    return float(np.prod(corner - added)) - hypervolume(np.unique(limited, axis=0), corner)


@dataclass(frozen=True)
class FreeSpace:
    """What a front leaves free below a reference point, as boxes ``[boxes, objectives]`` that do not overlap.

    Source: Lacour et al., "A box decomposition algorithm to compute the hypervolume indicator", arXiv:1510.01963.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @classmethod
    def of(cls, front: ArrayLike, reference: ArrayLike) -> FreeSpace:
        """The space that ``front`` (``[points, objectives]``) leaves free."""
        corner = np.asarray(reference, dtype=float)
        known = np.asarray(front, dtype=float).reshape(-1, len(corner))
        known = known[np.all(known < corner, axis=1)]
        if len(known) and len(corner) > 1:
            known = np.unique(known[non_dominated(known)], axis=0)
            lower, upper = get_non_dominated_box_bounds(known, corner)
            return cls(lower, np.minimum(upper, corner))
        edge = known.min(axis=0) if len(known) else corner
        return cls(np.full((1, len(corner)), -np.inf), edge[None, :])

    def gains(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hypervolume that each point adds on its own, ``[points]``."""
        found = np.empty(len(points))
        for start in range(0, len(points), GAINS_AT_ONCE):
            part = points[start : start + GAINS_AT_ONCE, None, :]
            sides = self.upper - np.maximum(self.lower, part)
            found[start : start + GAINS_AT_ONCE] = np.prod(np.maximum(sides, 0.0), axis=2).sum(axis=1)
        return found

    def without(self, point: NDArray[np.float64]) -> FreeSpace:
        """What is left once ``point`` has joined the front: boxes that it cuts are split, objective by objective."""
        cut = np.all(point < self.upper, axis=1)
        lower, upper = [self.lower[~cut]], [self.upper[~cut]]
        low, high = self.lower[cut], self.upper[cut]
        for objective, value in enumerate(point):
            better = low[:, objective] < value
            part = high[better].copy()
            part[:, objective] = np.minimum(part[:, objective], value)
            lower.append(low[better])
            upper.append(part)
            low = low.copy()
            low[:, objective] = np.maximum(low[:, objective], value)
        return FreeSpace(np.vstack(lower), np.vstack(upper))


def hypervolume_subset(points: ArrayLike, front: ArrayLike, reference: ArrayLike, count: int) -> list[int]:
    """Up to ``count`` points that add the most hypervolume to a front, chosen greedily; fewer where none adds more.

    A point's gain only falls as others join, so gains computed earlier are bounds, and few are computed again.

    Args:
        points: ``[points, objectives]``, less is better.
        front: ``[others, objectives]``.
        reference: ``[objectives]``.
        count: Most points chosen.
    """
    candidates = np.asarray(points, dtype=float)
    free = FreeSpace.of(front, reference)
    chosen: list[int] = []
    gains = free.gains(candidates)
    current = np.ones(len(gains), dtype=bool)
    while len(chosen) < count and len(gains):
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        if not current[best]:
            order = np.argpartition(-gains, min(GAINS_AT_ONCE, len(gains) - 1))[:GAINS_AT_ONCE]
            stale = order[~current[order]]
            gains[stale] = free.gains(candidates[stale])
            current[stale] = True
            continue
        chosen.append(best)
        free = free.without(candidates[best])
        gains[best] = 0.0
        current[:] = False
    return chosen


EXACT_VOLUMES = {1: 10**6, 2: 10**6, 3: 2_000}
"""Points that may become part of the front, by number of objectives, up to which each one's volume is exact."""

EXACT_VOLUMES_OTHERWISE = 200

VOLUME_SAMPLES = 1 << 15
"""Random points that estimate volumes beyond that: to 0.3% of the box between the best values and the reference."""


def is_volume_estimated(losses: ArrayLike, feasible: ArrayLike) -> bool:
    """Whether :func:`hypervolume_history` estimates volumes, since exact ones would take minutes."""
    points = np.asarray(losses, dtype=float)[np.asarray(feasible, dtype=bool)]
    limit = EXACT_VOLUMES.get(points.shape[1] if points.ndim == 2 else 1, EXACT_VOLUMES_OTHERWISE)
    return len(points) > limit and int(non_dominated(points).sum()) > limit


def _estimated_history(points: NDArray[np.float64], corner: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volumes by the share of random points that are dominated."""
    low = np.minimum(points.min(axis=0), corner)
    samples = low + (corner - low) * np.random.default_rng(0).random((VOLUME_SAMPLES, len(corner)))
    covered = np.zeros(len(points))
    at_once = max(1, COMPARED_AT_ONCE // VOLUME_SAMPLES)
    for start in range(0, len(points), at_once):
        part = points[start : start + at_once]
        covers = np.ones((len(samples), len(part)), dtype=bool)
        for mine, theirs in zip(samples.T, part.T, strict=True):
            covers &= theirs <= mine[:, None]
        hit = covers.any(axis=1)
        covered[start : start + at_once] = np.bincount(covers[hit].argmax(axis=1), minlength=len(part))
        samples = samples[~hit]
    return np.asarray(np.cumsum(covered) / VOLUME_SAMPLES * np.prod(corner - low))


def hypervolume_history(losses: ArrayLike, feasible: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume of the feasible points up to and including each one.

    Only a point that no earlier one equals or dominates changes it, so only those are computed. Of a large front it is
    estimated (see :func:`is_volume_estimated`).

    Args:
        losses: ``[points, objectives]`` in the order in which they were evaluated.
        feasible: ``[points]``.
        reference: ``[objectives]``.

    Returns:
        ``[points]``, never decreasing.
    """
    points = np.asarray(losses, dtype=float)
    usable = np.asarray(feasible, dtype=bool)
    history = np.zeros(len(points))
    if is_volume_estimated(points, usable):
        history[usable] = _estimated_history(points[usable], np.asarray(reference, dtype=float))
        return np.maximum.accumulate(history)
    front = np.empty((0, points.shape[1] if points.ndim == 2 else 0))
    volume = 0.0
    for index, point in enumerate(points):
        if usable[index] and not np.any(np.all(front <= point, axis=1)):
            # What it adds and not the whole again, which takes long where the front is large.
            volume += max(0.0, hypervolume_gain(point, front, reference))
            front = np.vstack([front[~np.all(point <= front, axis=1)], point])
        history[index] = volume
    return history
