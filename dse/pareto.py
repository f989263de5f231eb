"""The constrained Pareto front, and its hypervolume as trials come in."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna._hypervolume import compute_hypervolume, get_non_dominated_box_bounds  # not public: the pin >=5,<6

GAINS_AT_ONCE = 256
"""Points whose shares of all boxes are held at once."""


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
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    kept = np.zeros(len(unique), dtype=bool)
    left = np.arange(len(unique))
    while len(left):
        # np.unique sorts by the first objective, then the next: nothing that is left can dominate the first.
        first = left[0]
        kept[first] = True
        left = left[~np.all(unique[first] <= unique[left], axis=1)]
    mask[:] = kept[inverse.reshape(-1)]
    return mask


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


def hypervolume_gains(points: ArrayLike, front: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """:func:`hypervolume_gain` of many points, each on its own.

    What the front leaves free is cut into boxes once; a point's gain is what it takes of them.

    Args:
        points: ``[points, objectives]``, less is better.
        front: ``[others, objectives]``.
        reference: ``[objectives]``.

    Returns:
        ``[points]``.

    Source: Lacour et al., "A box decomposition algorithm to compute the hypervolume indicator", arXiv:1510.01963.
    """
    added, corner = np.asarray(points, dtype=float), np.asarray(reference, dtype=float)
    known = np.asarray(front, dtype=float).reshape(-1, len(corner))
    known = known[np.all(known < corner, axis=1)]
    if len(known) == 0 or len(corner) == 1:
        edge = corner if len(known) == 0 else known.min(axis=0)
        return np.asarray(np.prod(np.maximum(edge - added, 0.0), axis=1))
    known = np.unique(known[non_dominated(known)], axis=0)
    lower, upper = get_non_dominated_box_bounds(known, corner)
    gains = np.empty(len(added))
    for start in range(0, len(added), GAINS_AT_ONCE):
        part = added[start : start + GAINS_AT_ONCE, None, :]
        sides = np.minimum(upper, corner) - np.maximum(lower, part)
        gains[start : start + GAINS_AT_ONCE] = np.prod(np.maximum(sides, 0.0), axis=2).sum(axis=1)
    return gains


def hypervolume_history(losses: ArrayLike, feasible: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume of the feasible points up to and including each one.

    Only a point that no earlier one equals or dominates changes it, so only those are computed.

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
    front = np.empty((0, points.shape[1] if points.ndim == 2 else 0))
    volume = 0.0
    for index, point in enumerate(points):
        if usable[index] and not np.any(np.all(front <= point, axis=1)):
            front = np.vstack([front[~np.all(point <= front, axis=1)], point])
            volume = max(volume, hypervolume(front, reference))  # rounding must not let it fall
        history[index] = volume
    return history
