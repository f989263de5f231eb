"""Weighted one-dimensional k-means, solved exactly, and exact two-way splits, compiled with numba.

In one dimension the clusters of an optimal solution are intervals of the sorted values. The error of a partition is the
sum of w x^2 less its *gain*, the sum over intervals of (sum of w x)^2 / (sum of w), which prefix sums give in constant
time. The greatest gain of k intervals follows by dynamic programming over the number of intervals; the best last
boundary moves right as the prefix grows, so each layer takes O(n log n).

Most of that work is spared without giving up exactness: values are first grouped into blocks, the best partition along
block edges is found, and its gain bounds where any boundary of the best partition of all can lie (:func:`_windows`).

Sources: Wang and Song, "Ckmeans.1d.dp" (The R Journal 3/2, 2011); Grønlund et al., "Fast Exact k-Means, k-Medians
and Bregman Divergence Clustering in 1D", arXiv:1701.07204; the split per extra bit follows Park et al.,
"Any-Precision LLM", arXiv:2402.10517. The bound from blocks is our own; its proof is in :func:`_windows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Error that a block may hold, as a share of the row's over the cube of the clusters, for each pass: coarse blocks
# first, which let the finer ones be solved within windows. Best, or nearly so, for 4 to 16 clusters of 256 to 5632
# values; shares half or twice as large differ by a few per cent in time.
_BLOCK_SHARES = (5e-2, 5e-4)
# Blocks must be that many times fewer than values to be worth a pass.
_VALUES_PER_BLOCK = 3
# Blocks of a row whose tree is chosen jointly, at most: 256 lower errors by up to 1.3% more, at 2.5 times the time.
_TREE_BLOCKS = 128
# What rounding may take from a gain, as a share of the sum of w x^2.
_ROUNDING = 1e-12


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, kept on disk where a place can be written, else in memory only.

    Numba looks for a place beside the package and then in the user's cache folder, and raises where it finds
    none (a read-only install without a home folder).
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


@compiled
def _best_gains(mass: Any, moment: Any, low: Any, high: Any, gains: Any, cuts: Any) -> None:
    """Fill in the greatest gain of every prefix by every number of intervals, boundaries kept inside windows.

    Args:
        mass: ``[n + 1]`` prefix sums of w, rising.
        moment: ``[n + 1]`` prefix sums of w x, for rising x.
        low: ``[k + 1]``, not falling: boundary m lies at ``low[m]`` or after.
        high: ``[k + 1]``, not falling: and at ``high[m]`` or before.
        gains: Output ``[k + 1, n + 1]``: entry ``[m, j]``, inside window m, is that of the first j values in m
            intervals, some perhaps empty.
        cuts: Output ``[k + 1, n + 1]``: where the last of those m intervals starts.
    """
    for j in range(low[1], high[1] + 1):
        gains[1, j] = moment[j] * moment[j] / mass[j] if j else 0.0
    for m in range(2, low.size):
        before, after, cut = gains[m - 1], gains[m], cuts[m]
        # Every second column, then every second one between, ...: the cuts of both neighbours bound each.
        columns = high[m] - low[m] + 1
        stride = 1
        while 2 * stride <= columns:
            stride *= 2
        while stride:
            for column in range(stride, columns + 1, 2 * stride):
                j = low[m] + column - 1
                left = cut[j - stride] if column > stride else low[m - 1]
                right = cut[j + stride] if column + stride <= columns else high[m - 1]
                best, best_cut = -np.inf, left
                if right >= j:
                    right = j - 1
                    best, best_cut = before[j], j
                for i in range(left, right + 1):
                    moment_here = moment[j] - moment[i]
                    gain = before[i] + moment_here * moment_here / (mass[j] - mass[i])
                    # Two selections rather than a branch, which would be taken unpredictably.
                    better = gain > best
                    best = gain if better else best
                    best_cut = i if better else best_cut
                after[j], cut[j] = best, best_cut
            stride //= 2


@compiled
def _block_edges(values: Any, mass: Any, allowed: float) -> Any:
    """Group sorted values into as few blocks as hold at most ``allowed`` error each.

    Returns:
        Where each block starts, and the end of the last one; and an upper bound on each block's error: its mass times
        a quarter of its squared extent.
    """
    n = values.size
    edges, errors = np.empty(n + 1, dtype=np.int64), np.empty(n)
    blocks, start, error = 0, 0, 0.0
    edges[0] = 0
    for i in range(1, n):
        extent = values[i] - values[start]
        grown = (mass[i + 1] - mass[start]) * extent * extent / 4
        if grown > allowed:
            errors[blocks] = error
            blocks, start, grown = blocks + 1, i, 0.0
            edges[blocks] = i
        error = grown
    errors[blocks] = error
    edges[blocks + 1] = n
    return edges[: blocks + 2], errors[: blocks + 1]


@compiled
def _windows(values: Any, mass: Any, moment: Any, low: Any, high: Any) -> None:
    """Narrow down where the boundaries of the best partition into k intervals can lie.

    Let every value move to the mean of its block; the moved values' error is called *collapsed*. V is the error inside
    blocks, U the least collapsed error of a partition along block edges: its true error is U + V. Take any partition
    at least as good, and let C be the error inside the blocks that it cuts, at most the k - 1 largest ones. With only
    the blocks that it does not cut collapsed, its error is at most U + V - (V - C) = U + C. Collapsing the others too
    moves values by a root mean square that changes the root of the error by at most sqrt(C), so its collapsed error is
    at most (sqrt(U + C) + sqrt(C))^2. Equal values that two clusters share cost no less than with one of them (either
    cluster's error is concave in the mass it gets), so some partition along edges, its m-th boundary at an edge of the
    block that this one's m-th boundary cuts, has no more collapsed error. Edges through which none passes at that
    error, by the best gains from the left and from the right, are therefore ruled out with the blocks around them.
    Finer blocks then repeat that within the windows of coarser ones.

    Args:
        values: ``[n]``, rising.
        mass: ``[n + 1]`` prefix sums of w.
        moment: ``[n + 1]`` prefix sums of w x.
        low: Output ``[k + 1]``: first possible place of each boundary.
        high: Output ``[k + 1]``: last possible place.
    """
    n, k = values.size, low.size - 1
    low[:], high[:] = 0, n
    high[0], low[k] = 0, n
    if k == 2:
        return
    total = 0.0
    mean = moment[n] / mass[n]
    for i in range(n):
        total += (mass[i + 1] - mass[i]) * (values[i] - mean) ** 2
    for share in _BLOCK_SHARES:
        edges, errors = _block_edges(values, mass, share * total / k**3)
        blocks = errors.size
        if _VALUES_PER_BLOCK * blocks > n:
            return
        square = 0.0
        for b in range(blocks):
            block_moment = moment[edges[b + 1]] - moment[edges[b]]
            square += block_moment * block_moment / (mass[edges[b + 1]] - mass[edges[b]])
        # The windows so far, out to the next edges; seen from the right, boundary m is boundary k - m.
        first = np.searchsorted(edges, low, "right") - 1
        last = np.searchsorted(edges, high)
        back_first, back_last = blocks - last[:0:-1], blocks - first[:0:-1]
        cuts = np.empty((k + 1, blocks + 1), dtype=np.int32)
        from_left, from_right = np.empty((k + 1, blocks + 1)), np.empty((k + 1, blocks + 1))
        _best_gains(mass[edges], moment[edges], first, last, from_left, cuts)
        back = edges[::-1]
        _best_gains(mass[n] - mass[back], moment[n] - moment[back], back_first, back_last, from_right, cuts)
        cut_error = np.sort(errors)[-(k - 1) :].sum()
        least = max(square - from_left[k, blocks], 0.0)
        most = (np.sqrt(least + cut_error) + np.sqrt(cut_error)) ** 2
        needed = square * (1 - _ROUNDING) - most
        for m in range(1, k):
            edge = first[m]
            while from_left[m, edge] + from_right[k - m, blocks - edge] < needed:
                edge += 1
            low[m] = max(low[m], low[m - 1], edges[max(edge - 1, 0)])
            edge = last[m]
            while from_left[m, edge] + from_right[k - m, blocks - edge] < needed:
                edge -= 1
            high[m] = min(high[m], edges[min(edge + 1, blocks)])


@compiled
def _best_partition(values: Any, mass: Any, moment: Any, clusters: int) -> Any:
    """Boundaries ``[clusters + 1]`` of the best partition of sorted values; an interval may be empty."""
    n = values.size
    low, high = np.empty(clusters + 1, dtype=np.int64), np.empty(clusters + 1, dtype=np.int64)
    _windows(values, mass, moment, low, high)
    gains, cuts = np.empty((clusters + 1, n + 1)), np.empty((clusters + 1, n + 1), dtype=np.int32)
    _best_gains(mass, moment, low, high, gains, cuts)
    bounds = np.zeros(clusters + 1, dtype=np.int64)
    bounds[clusters] = n
    for m in range(clusters, 1, -1):
        bounds[m - 1] = cuts[m, bounds[m]]
    return bounds


@compiled
def _tree_blocks(values: Any, mass: Any, moment: Any) -> Any:
    """Edges of at most ``_TREE_BLOCKS`` blocks with little error each; every value alone where they are that few."""
    allowed = 0.0
    if values.size > _TREE_BLOCKS:
        mean = moment[values.size] / mass[values.size]
        for i in range(values.size):
            allowed += (mass[i + 1] - mass[i]) * (values[i] - mean) ** 2
        allowed /= values.size**3
    while True:
        edges, errors = _block_edges(values, mass, allowed)
        if errors.size <= _TREE_BLOCKS:
            return edges
        # The number of blocks falls about as the cube root of the error that each may hold; careful steps end near the
        # most blocks whatever the row looks like.
        allowed *= 1.2 * (errors.size / _TREE_BLOCKS) ** 2


@compiled
def _best_tree(values: Any, mass: Any, moment: Any, clusters: int, depth: int) -> Any:
    """Boundaries ``[clusters * 2**depth + 1]`` of the narrowest clusters of the best tree along block edges.

    A tree splits each of ``clusters`` intervals in two, ``depth`` times over. It is best if the sum over its levels of
    4**level times the error at that level is least: a bit more divides the error by about four, so that every level's
    relative error counts alike. Errors of intervals have the Monge property, and sums and products of such tables keep
    it, so the best split of an interval lies between those of the interval one block shorter at either end.
    """
    edges = _tree_blocks(values, mass, moment)
    blocks = edges.size - 1
    gain = np.zeros((blocks + 1, blocks + 1))
    for i in range(blocks):
        for j in range(i + 1, blocks + 1):
            inside = moment[edges[j]] - moment[edges[i]]
            gain[i, j] = inside * inside / (mass[edges[j]] - mass[edges[i]])
    split = np.zeros((depth + 1, blocks + 1, blocks + 1), dtype=np.int32)
    best = gain * 4.0**depth
    for height in range(1, depth + 1):
        below = best
        best = np.zeros((blocks + 1, blocks + 1))
        for i in range(blocks, -1, -1):
            split[height, i, i] = i
            for j in range(i + 1, blocks + 1):
                top, cut = -np.inf, i
                for c in range(split[height, i, j - 1], split[height, i + 1, j] + 1):
                    both = below[i, c] + below[c, j]
                    better = both > top
                    top = both if better else top
                    cut = c if better else cut
                best[i, j], split[height, i, j] = top + gain[i, j] * 4.0 ** (depth - height), cut
    before = best[0]
    cuts = np.zeros((clusters + 1, blocks + 1), dtype=np.int32)
    for m in range(2, clusters + 1):
        after = np.empty(blocks + 1)
        for j in range(blocks + 1):
            top, cut = -np.inf, 0
            for i in range(cuts[m, j - 1] if j else 0, j + 1):
                whole = before[i] + best[i, j]
                better = whole > top
                top = whole if better else top
                cut = i if better else cut
            after[j], cuts[m, j] = top, cut
        before = after
    width = 1 << depth
    bounds = np.zeros(clusters * width + 1, dtype=np.int64)
    bounds[clusters * width] = blocks
    for m in range(clusters, 1, -1):
        bounds[(m - 1) * width] = cuts[m, bounds[m * width]]
    for height in range(depth, 0, -1):
        step = 1 << height
        for start in range(0, clusters * width, step):
            bounds[start + step // 2] = split[height, bounds[start], bounds[start + step]]
    return edges[bounds]


@compiled
def _best_split(mass: Any, moment: Any, i: int, j: int) -> int:
    """Where to cut the sorted, distinct values ``i..j-1`` in two at the least error; ``j`` for fewer than two."""
    mean = (moment[j] - moment[i]) / (mass[j] - mass[i]) if i < j else 0.0
    best, best_cut = -1.0, j
    for cut in range(i + 1, j):
        left, right = mass[cut] - mass[i], mass[j] - mass[cut]
        # Mass left of the cut times its distance from the mean, which the right side balances.
        lever = moment[cut] - moment[i] - left * mean
        gain = lever * lever / (left * right)
        better = gain > best
        best = gain if better else best
        best_cut = cut if better else best_cut
    return best_cut


@compiled
def _fill_centroids(values: Any, mass: Any, moment: Any, bounds: Any, table: Any) -> None:
    """Fill ``table`` with each interval's weighted mean; an empty interval keeps what is there."""
    for c in range(table.size):
        i, j = bounds[c], bounds[c + 1]
        if i < j:
            mean = (moment[j] - moment[i]) / (mass[j] - mass[i])
            # Rounding in the prefix sums must not push a mean outside its own interval.
            table[c] = min(max(mean, values[i]), values[j - 1])


@compiled
def _steadiest_path(table: Any, min_bits: int, max_bits: int) -> int:
    """The index at ``max_bits`` whose centroids differ least over the widths; of equals the one nearest zero."""
    best, best_spread, best_mean = 0, np.inf, np.inf
    widths = max_bits - min_bits + 1
    for path in range(1 << max_bits):
        mean, spread = 0.0, 0.0
        for bits in range(min_bits, max_bits + 1):
            mean += table[(1 << bits) + (path >> (max_bits - bits))] / widths
        for bits in range(min_bits, max_bits + 1):
            spread += (table[(1 << bits) + (path >> (max_bits - bits))] - mean) ** 2
        if spread < best_spread or (spread == best_spread and abs(mean) < best_mean):
            best, best_spread, best_mean = path, spread, abs(mean)
    return best


@compiled
def nested_rows(
    values: Any,
    weights: Any,
    order: Any,
    counts: Any,
    min_bits: int,
    tree_bits: int,
    max_bits: int,
    indices: Any,
    tables: Any,
) -> None:
    """Cluster every row from ``min_bits`` to ``tree_bits`` jointly, then split every cluster in two per extra bit.

    With ``tree_bits = min_bits`` the seed is the best possible clustering of that width.

    Args:
        values: ``[R, n]`` float32, finite.
        weights: ``[R, n]`` float64, all above zero; or ``[1, n]``, used for every row.
        order: ``[R, n]`` integers: the columns of each row by rising value, those that are left out at the end.
        counts: ``[R]``: how many columns of each row take part; the others get the index whose centroids differ
            least from width to width.
        min_bits: Seed width, 1..8.
        tree_bits: Widest width that is chosen jointly with the narrower ones, min_bits..max_bits.
        max_bits: Widest width, up to 8.
        indices: Output ``[R, n]`` uint8: the cluster at ``max_bits``; its top b bits are the cluster at b bits.
            Equal values share a cluster.
        tables: Output ``[R, 2**(max_bits + 1)]`` float64: the centroids of width b at ``2**b .. 2**(b + 1) - 1``,
            rising; zero in a row that takes no part.
    """
    rows, n = values.shape
    x = np.empty(n)
    mass, moment = np.zeros(n + 1), np.zeros(n + 1)
    first = np.empty(n + 1, dtype=np.int64)
    for row in range(rows):
        count, table = counts[row], tables[row]
        if count == 0:
            table[:] = 0.0
            indices[row, :] = 0
            continue
        # Gains are sums of large squares unless the values lie around zero.
        centre = np.float64(values[row, order[row, count // 2]])
        # Equal values become one, so that no cut can fall between them; value d fills positions first[d] to
        # first[d + 1] - 1 of the sorted row. Entries are overwritten until the last of equals: no branch to predict.
        distinct, row_mass, row_moment = 0, 0.0, 0.0
        previous = np.float64(values[row, order[row, 0]]) - centre
        first[0] = 0
        for position in range(count):
            column = order[row, position]
            value = np.float64(values[row, column]) - centre
            weight = weights[row % weights.shape[0], column]
            distinct += value != previous
            first[distinct + 1] = position + 1
            row_mass += weight
            row_moment += weight * value
            x[distinct], mass[distinct + 1], moment[distinct + 1] = value, row_mass, row_moment
            previous = value
        distinct += 1
        seeds, depth = 1 << min_bits, tree_bits - min_bits
        if depth:
            tree = _best_tree(x[:distinct], mass[: distinct + 1], moment[: distinct + 1], seeds, depth)
        else:
            tree = _best_partition(x[:distinct], mass[: distinct + 1], moment[: distinct + 1], seeds)
        bounds = tree[:: 1 << depth].copy()
        for c in range(1 << min_bits):
            table[(1 << min_bits) + c] = x[min(bounds[c], distinct - 1)]
        _fill_centroids(x, mass, moment, bounds, table[1 << min_bits : 2 << min_bits])
        for bits in range(min_bits + 1, max_bits + 1):
            clusters = 1 << bits
            parents = bounds
            bounds = np.empty(clusters + 1, dtype=np.int64)
            bounds[clusters] = distinct
            for c in range(clusters // 2):
                bounds[2 * c] = parents[c]
                if bits <= tree_bits:
                    bounds[2 * c + 1] = tree[(2 * c + 1) << (tree_bits - bits)]
                else:
                    bounds[2 * c + 1] = _best_split(mass, moment, parents[c], parents[c + 1])
                # A child left empty inherits its parent's centroid.
                table[clusters + 2 * c] = table[clusters // 2 + c]
                table[clusters + 2 * c + 1] = table[clusters // 2 + c]
            _fill_centroids(x, mass, moment, bounds, table[clusters : 2 * clusters])
        for c in range(1 << max_bits):
            for position in range(first[bounds[c]], first[bounds[c + 1]]):
                indices[row, order[row, position]] = c
        for c in range(1 << min_bits, 2 << max_bits):
            table[c] += centre
        if count < n:
            path = _steadiest_path(table, min_bits, max_bits)
            for position in range(count, n):
                indices[row, order[row, position]] = path
