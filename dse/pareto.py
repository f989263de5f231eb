"""The constrained Pareto front, and its hypervolume as trials come in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume, get_non_dominated_box_bounds  # not public: the pin >=5,<6

from dse.dominance import non_dominated

GAINS_AT_ONCE = 128
"""Points whose shares of all boxes are held at once."""

COMPARED_AT_ONCE = 1 << 20
"""Pairs of points compared at the same time, which stay in cache."""


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
