"""Which points no other one dominates, exactly, for a million points at a time.

Values are numbered objective by objective, and the points that differ are sorted by these numbers, the objective with
the second most of them first. Whatever dominates a point then comes before it, and of two points in this order the
first dominates the second if it is no worse in the other objectives. Of these, the one with the most values is kept
apart: a table says, for each combination of the values of the rest, how good it is at best among the points so far. A
point is beaten if that is no worse than its own. Where such a table would be too large, points are halved and the
second half compared with what is left of the first, in one objective less.

Source: Kung, Luccio, Preparata, "On Finding the Maxima of a Set of Vectors", 1975, for the halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

CELLS = 1 << 18
"""Entries of a table."""

BLOCK = 256
"""Points that are compared each with each at a time."""

LOOKED_UP_AT_ONCE = 1 << 13
"""Points looked up in a table at a time."""

COMPARED_AT_ONCE = 1 << 20
"""Pairs of points compared at the same time, which stay in cache."""

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


def dominated(points: ArrayLike, others: ArrayLike) -> Mask:
    """Mark the points that one of ``others`` dominates: is nowhere worse than and somewhere better.

    Nothing dominates a point with a NaN, or is dominated by it.

    Args:
        points: ``[points, objectives]``, less is better.
        others: ``[others, objectives]``.

    Returns:
        ``[points]`` mask.
    """
    mine, theirs = np.asarray(points, dtype=float), np.asarray(others, dtype=float)
    if not len(mine) or not len(theirs):
        return np.zeros(len(mine), dtype=bool)
    if len(mine) * len(theirs) <= COMPARED_AT_ONCE:
        return _compared(mine, theirs)
    return _beaten(mine, theirs)


def non_dominated(losses: ArrayLike) -> Mask:
    """Mark the points that no other point dominates.

    A point dominates another if it is nowhere worse and somewhere better; of equal points all are kept.

    Args:
        losses: ``[points, objectives]``, less is better.

    Returns:
        ``[points]`` mask.
    """
    points = np.asarray(losses, dtype=float)
    if len(points) ** 2 <= COMPARED_AT_ONCE:
        return ~_compared(points, points)
    best = np.ones(len(points), dtype=bool)
    usable = np.flatnonzero(~np.isnan(points).any(axis=1))
    numbers = _arranged([np.unique(column, return_inverse=True)[1] for column in points[usable].T])
    order, first = _sorted(numbers)
    differ = order[first]
    covered = _covered([column[differ] for column in numbers[1:]], np.ones(len(differ), dtype=bool))
    best[usable[order]] = np.repeat(~covered, np.diff(first, append=len(order)))
    return best


def by_promise(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order in which no point comes behind one that it dominates: by the sum of losses as shares of their spans."""
    low, high = losses.min(axis=0, initial=np.inf), losses.max(axis=0, initial=-np.inf)
    spans = np.subtract(high, low, out=np.ones(len(low)), where=np.isfinite(low) & np.isfinite(high) & (high > low))
    return np.lexsort((*losses.T[::-1], (losses / spans).sum(axis=1)))


def _compared(points: NDArray[np.float64], others: NDArray[np.float64]) -> Mask:
    """As :func:`dominated`, each compared with each."""
    nowhere_worse = np.ones((len(points), len(others)), dtype=bool)
    somewhere_better = np.zeros_like(nowhere_worse)
    for mine, theirs in zip(points.T, others.T, strict=True):
        nowhere_worse &= theirs <= mine[:, None]
        somewhere_better |= theirs < mine[:, None]
    return np.asarray((nowhere_worse & somewhere_better).any(axis=1))


def _beaten(points: NDArray[np.float64], others: NDArray[np.float64]) -> Mask:
    """As :func:`dominated`, of many."""
    beaten = np.zeros(len(points), dtype=bool)
    others = others[~np.isnan(others).any(axis=1)]
    levels = [np.unique(column) for column in others.T]
    # How many of the others' values a point's own is no better than: without any, nothing dominates it.
    passed = [np.searchsorted(values, column, "right") for values, column in zip(levels, points.T, strict=True)]
    usable = np.flatnonzero(np.all(passed, axis=0) & ~np.isnan(points).any(axis=1))
    numbers, equal = [], np.ones(len(usable), dtype=bool)
    for values, column, count, theirs in zip(levels, points.T, passed, others.T, strict=True):
        number = count[usable] - 1
        equal &= values[number] == column[usable]
        numbers.append(np.concatenate([np.searchsorted(values, theirs), number]))
    rival = np.arange(len(others) + len(usable)) < len(others)
    # Of equal numbers the points equal to the others come first, so that these do not beat them, then the others.
    turn = np.concatenate([np.ones(len(others), dtype=np.int64), np.where(equal, 0, 2)])
    numbers = _arranged(numbers)
    order, _ = _sorted([*numbers, turn])
    covered = _covered([column[order] for column in numbers[1:]], rival[order])
    mine = ~rival[order]
    beaten[usable[order[mine] - len(others)]] = covered[mine]
    return beaten


def _arranged(columns: list[Numbers]) -> list[Numbers]:
    """The column with the second most numbers first."""
    ordered = sorted(columns, key=lambda column: int(column.max(initial=0)))
    return [*ordered[-2:-1], *ordered[:-2], ordered[-1]]


def _sorted(columns: Sequence[Numbers]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order by the first column, then the next ones, and the places in it where another row begins."""
    keys: list[Numbers] = []
    size = 0
    for column in columns:
        levels = int(column.max(initial=0)) + 1
        if keys and size * levels <= np.iinfo(np.int64).max:
            keys[-1] = keys[-1] * levels + column
            size *= levels
        else:
            keys.append(column)
            size = levels
    order = np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys[::-1])
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order[1:]] != key[order[:-1]]
    return order, np.flatnonzero(new)


def _covered(columns: Sequence[Numbers], rival: Mask) -> Mask:
    """Mark the rows than which an earlier one, marked as ``rival``, is no worse in every column."""
    if not columns:
        return np.asarray(np.cumsum(rival) > rival)
    if len(rival) <= BLOCK:
        return _covered_in_block(columns, rival)
    columns = sorted((_ranked(column) for column in columns), key=lambda column: int(column.max()))
    cells = math.prod(int(column.max()) + 1 for column in columns[:-1])
    return _by_table(columns, rival) if cells <= CELLS else _by_halves(columns, rival)


def _ranked(column: Numbers) -> Numbers:
    """The numbers in the same order, but without gaps."""
    found = np.zeros(int(column.max()) + 1, dtype=bool)
    found[column] = True
    return np.asarray((np.cumsum(found) - 1)[column])


def _covered_in_block(columns: Sequence[Numbers], rival: Mask) -> Mask:
    """As :func:`_covered`, each compared with each."""
    rivals = np.flatnonzero(rival)
    covers = rivals < np.arange(len(rival))[:, None]
    for column in columns:
        covers &= column[rivals] <= column[:, None]
    return np.asarray(covers.any(axis=1))


def _by_table(columns: Sequence[Numbers], rival: Mask) -> Mask:
    """As :func:`_covered`, by a table of the least in the last column for each combination of the others."""
    *others, free = columns
    sizes = [int(column.max()) + 1 for column in others]
    best = np.full(sizes, np.iinfo(np.int64).max)
    flat = best.reshape(-1)
    place = np.ravel_multi_index(others, sizes) if others else np.zeros(len(rival), dtype=np.intp)
    covered = np.ones(len(rival), dtype=bool)
    for start in range(0, len(rival), LOOKED_UP_AT_ONCE):
        part = slice(start, start + LOOKED_UP_AT_ONCE)
        left = start + np.flatnonzero(flat[place[part]] > free[part])
        ends = np.searchsorted(np.cumsum(rival[left]), np.arange(BLOCK, len(left) + BLOCK, BLOCK))
        for some in np.split(left, ends[ends < len(left)]):
            rows = some[flat[place[some]] > free[some]]
            rivals = rows[rival[rows]]
            if len(rivals):
                np.minimum.at(flat, place[rivals], free[rivals])
                for axis in range(best.ndim):
                    np.minimum.accumulate(best, axis=axis, out=best)
            # Those that come later count too now: only what is covered with their help is compared with each.
            covered[rows] = False
            close = rows[flat[place[rows]] <= free[rows]]
            covered[close] = _covered_in_block([column[close] for column in columns], rival[close])
    return covered


def _by_halves(columns: Sequence[Numbers], rival: Mask) -> Mask:
    """As :func:`_covered`, each half by itself, and then the second by the first."""
    half = len(rival) // 2
    covered = np.concatenate(
        [_covered([column[part] for column in columns], rival[part]) for part in (slice(half), slice(half, None))]
    )
    first = np.flatnonzero(rival[:half] & ~covered[:half])
    second = half + np.flatnonzero(~covered[half:])
    rows = np.concatenate([first, second])
    # Stable, so that of equal rows those of the first half come first.
    order = np.argsort(columns[-1][rows], kind="stable")
    beaten = np.empty(len(rows), dtype=bool)
    beaten[order] = _covered([column[rows[order]] for column in columns[:-1]], order < len(first))
    covered[second] = beaten[len(first) :]
    return covered
