"""Weighted one-dimensional k-means, solved exactly, and exact two-way splits, compiled with numba.

In one dimension the clusters of an optimal solution are intervals of the sorted values. Prefix sums give the
weighted squared error of any interval in constant time, and the cheapest partition into k intervals follows by
dynamic programming over the number of clusters. The best last boundary moves right as the prefix grows, so each
layer takes O(n log n) by divide and conquer.

Sources: Wang and Song, "Ckmeans.1d.dp" (The R Journal 3/2, 2011); Grønlund et al., "Fast Exact k-Means, k-Medians
and Bregman Divergence Clustering in 1D", arXiv:1701.07204; the split per extra bit follows Park et al.,
"Any-Precision LLM", arXiv:2402.10517.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, kept on disk where a place can be written, else in memory only.

    Numba looks for a place beside the package and then in the user's cache folder, and raises where it finds
    none (a read-only install without a home folder).
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


@compiled
def _interval_error(sums: Any, i: int, j: int) -> float:
    """Weighted squared error of the sorted values ``i..j-1`` about their mean; ``sums`` are prefix sums."""
    if i == j:
        return 0.0
    first = sums[1, j] - sums[1, i]
    error = sums[2, j] - sums[2, i] - first * first / (sums[0, j] - sums[0, i])
    return max(error, 0.0)  # type: ignore[no-any-return]


@compiled
def _prefix_sums(values: Any, weights: Any, n: int) -> Any:
    """Prefix sums ``[3, n + 1]`` of w, w x and w x^2 over the first n values."""
    sums = np.zeros((3, n + 1))
    for j in range(n):
        wx = weights[j] * values[j]
        sums[0, j + 1] = sums[0, j] + weights[j]
        sums[1, j + 1] = sums[1, j] + wx
        sums[2, j + 1] = sums[2, j] + wx * values[j]
    return sums


@compiled
def _best_partition(sums: Any, clusters: int) -> Any:
    """Boundaries ``[clusters + 1]`` of the cheapest partition; an interval may be empty."""
    n = sums.shape[1] - 1
    before = np.empty(n + 1)
    for j in range(n + 1):
        before[j] = _interval_error(sums, 0, j)
    after = np.empty(n + 1)
    cut = np.zeros((clusters, n + 1), dtype=np.int32)
    # Each entry: columns low..high of this layer, whose best cut lies in left..right. Depth first, so that at most
    # two entries wait per level of the halving.
    stack = np.empty((2 * 64, 4), dtype=np.int64)
    for layer in range(1, clusters):
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, n, 0, n
        waiting = 1
        while waiting:
            waiting -= 1
            low, high, left, right = stack[waiting, 0], stack[waiting, 1], stack[waiting, 2], stack[waiting, 3]
            j = (low + high) // 2
            best, best_cut = np.inf, left
            for i in range(left, min(right, j) + 1):
                error = before[i] + _interval_error(sums, i, j)
                if error < best:
                    best, best_cut = error, i
            after[j], cut[layer, j] = best, best_cut
            if low < j:
                stack[waiting, 0], stack[waiting, 1] = low, j - 1
                stack[waiting, 2], stack[waiting, 3] = left, best_cut
                waiting += 1
            if j < high:
                stack[waiting, 0], stack[waiting, 1] = j + 1, high
                stack[waiting, 2], stack[waiting, 3] = best_cut, right
                waiting += 1
        before, after = after, before
    bounds = np.empty(clusters + 1, dtype=np.int64)
    bounds[clusters] = n
    for layer in range(clusters - 1, 0, -1):
        bounds[layer] = cut[layer, bounds[layer + 1]]
    bounds[0] = 0
    return bounds


@compiled
def _best_split(sums: Any, i: int, j: int) -> int:
    """Where to cut the sorted values ``i..j-1`` in two at the least error; ``j`` if no cut lowers it."""
    best, best_cut = _interval_error(sums, i, j), j
    for cut in range(i + 1, j):
        error = _interval_error(sums, i, cut) + _interval_error(sums, cut, j)
        if error < best:
            best, best_cut = error, cut
    return best_cut


@compiled
def _fill_centroids(values: Any, sums: Any, bounds: Any, table: Any) -> None:
    """Fill ``table`` with each interval's weighted mean; an empty interval keeps what is there."""
    for c in range(table.size):
        i, j = bounds[c], bounds[c + 1]
        if i < j:
            mean = (sums[1, j] - sums[1, i]) / (sums[0, j] - sums[0, i])
            # Rounding in the prefix sums must not push a mean outside its own interval.
            table[c] = min(max(mean, values[i]), values[j - 1])


@compiled
def nested_rows(values: Any, weights: Any, order: Any, min_bits: int, max_bits: int, indices: Any, tables: Any) -> None:
    """Cluster every row at ``min_bits`` exactly, then split every cluster in two per extra bit.

    Args:
        values: ``[R, n]`` float32, finite.
        weights: ``[R, n]`` float64, all above zero; or ``[1, n]``, used for every row.
        order: ``[R, n]`` int64: the columns of each row by rising value.
        min_bits: Seed width, 1..8.
        max_bits: Widest width, min_bits..8.
        indices: Output ``[R, n]`` uint8: the cluster at ``max_bits``; its top b bits are the cluster at b bits.
            Equal values share a cluster.
        tables: Output ``[R, 2**(max_bits + 1)]`` float64: the centroids of width b at ``2**b .. 2**(b + 1) - 1``,
            rising.
    """
    rows, n = values.shape
    x = np.empty(n)
    w = np.empty(n)
    first = np.empty(n + 1, dtype=np.int64)
    for row in range(rows):
        # The error of an interval is a difference of large sums unless the values lie around zero.
        centre = 0.0
        for k in range(n):
            centre += values[row, k] / n
        # Equal values become one, so that no cut can fall between them; value d fills positions first[d] to
        # first[d + 1] - 1 of the sorted row.
        distinct = 0
        for position in range(n):
            k = order[row, position]
            weight = weights[row % weights.shape[0], k]
            if position and values[row, k] == values[row, order[row, position - 1]]:
                w[distinct - 1] += weight
            else:
                x[distinct], w[distinct] = values[row, k] - centre, weight
                first[distinct] = position
                distinct += 1
        first[distinct] = n
        sums = _prefix_sums(x, w, distinct)
        bounds = _best_partition(sums, 1 << min_bits)
        table = tables[row]
        for c in range(1 << min_bits):
            table[(1 << min_bits) + c] = x[min(bounds[c], distinct - 1)]
        _fill_centroids(x, sums, bounds, table[1 << min_bits : 2 << min_bits])
        for bits in range(min_bits + 1, max_bits + 1):
            clusters = 1 << bits
            parents = bounds
            bounds = np.empty(clusters + 1, dtype=np.int64)
            bounds[clusters] = distinct
            for c in range(clusters // 2):
                bounds[2 * c] = parents[c]
                bounds[2 * c + 1] = _best_split(sums, parents[c], parents[c + 1])
                # A child left empty inherits its parent's centroid.
                table[clusters + 2 * c] = table[clusters // 2 + c]
                table[clusters + 2 * c + 1] = table[clusters // 2 + c]
            _fill_centroids(x, sums, bounds, table[clusters : 2 * clusters])
        for c in range(1 << max_bits):
            for position in range(first[bounds[c]], first[bounds[c + 1]]):
                indices[row, order[row, position]] = c
        for c in range(1 << min_bits, 2 << max_bits):
            table[c] += centre
