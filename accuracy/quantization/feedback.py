"""Choose the codes of a nested matrix column by column, each repairing the output error that the earlier ones made.

GPTQ's error feedback (:mod:`accuracy.quantization.hessian`) for codebooks that need not be uniform, and for all widths
at once. Each width b has errors E_b of its own, hence its own target for column j, w_j + E_b R[:, j] / R[j, j]; but one
code serves them all, its top b bits being the code at b bits. Of all codes, the one with the least weighted sum over
the widths of (target_b - centroid_b)^2 is taken. The codebooks stay as they were.

The widest width counts four times as much as the narrowest, the others geometrically between. Counting evenly, the wide
widths get worse than without feedback; counting each relative to its own usual error (four times as much per bit), they
leave the narrow ones almost no choice of codes. The fewer widths share a code, the more each of them gains.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from accuracy.quantization.hessian import BLOCK_COLUMNS, hessian_of, upper_factor
from accuracy.quantization.kmeans import compiled

if TYPE_CHECKING:
    from accuracy.quantization.nested import NestedMatrix

DAMPING = 0.01
# How many times as much an error counts at the widest width as at the narrowest.
WIDEST_OVER_NARROWEST = 4.0
# Rows are taken in chunks of about this many weights, so that the errors of all widths stay small.
_CHUNK_WEIGHTS = 1 << 23


def with_feedback(
    matrix: NestedMatrix, weight: NDArray[np.floating], hessian: NDArray[np.floating] | None
) -> NestedMatrix:
    """The same matrix with codes that lower the output error tr(E H E^T).

    Outliers keep their codes; what they are off by is repaired like any other error.

    Args:
        matrix: Codebooks, and outliers with their codes.
        weight: ``[N, K]``, what was quantised.
        hessian: ``[K, K]``: X X^T over the layer's calibration inputs, at any positive scale.

    Raises:
        InputError: If the Hessian is missing, of another shape, not finite, or far from positive definite.
    """
    N, K = weight.shape
    moments = hessian_of(hessian, K)
    order = moments.diagonal().argsort(descending=True, stable=True)
    factor = upper_factor(moments[order][:, order], DAMPING)
    del moments
    factor /= factor.diagonal().clone()
    columns = order.numpy()
    fixed = np.zeros((N, K), dtype=np.bool_)
    added = np.zeros((N, K), dtype=np.float32)
    if matrix.sparse is not None:
        row = np.repeat(np.arange(N), np.diff(matrix.sparse.rows))
        fixed[row, matrix.sparse.cols] = True
        added[row, matrix.sparse.cols] = matrix.sparse.vals
    # As the compiled code takes them: centroids of width b at 2**b .. 2**(b + 1) - 1.
    low, high = min(matrix.luts), max(matrix.luts)
    tables = np.zeros((N, matrix.luts[low].shape[1], 2 << high), dtype=np.float32)
    for bits, lut in matrix.luts.items():
        tables[..., 1 << bits : 2 << bits] = lut
    groups = columns // (matrix.group_size or K)
    indices = matrix.indices.copy()
    step = max(1, _CHUNK_WEIGHTS // K)
    for start in range(0, N, step):
        rows = slice(start, start + step)
        codes = np.ascontiguousarray(indices[rows][:, columns])
        values = (weight[rows] - added[rows]).astype(np.float32)[:, columns]
        _choose(values, fixed[rows][:, columns], factor.numpy(), tables[rows], groups, low, codes)
        indices[rows, columns] = codes
    return replace(matrix, indices=indices)


def _choose(
    values: NDArray[np.float32],
    fixed: NDArray[np.bool_],
    factor: NDArray[np.float32],
    tables: NDArray[np.float32],
    groups: NDArray[np.int64],
    min_bits: int,
    codes: NDArray[np.uint8],
) -> None:
    """Fill ``codes`` ``[rows, K]``, a block of columns at a time; within one, rows go to one thread per core."""
    rows, K = values.shape
    widths = tables.shape[-1].bit_length() - 1 - min_bits
    errors = np.zeros((rows, widths, K), dtype=np.float32)
    ratio = np.float32(WIDEST_OVER_NARROWEST ** (1 / max(1, widths - 1)))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    step = -(-rows // threads)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, K, BLOCK_COLUMNS):
            block = slice(start, min(start + BLOCK_COLUMNS, K))
            debt = (errors.reshape(-1, K)[:, :start] @ factor[:start, block]).reshape(rows, widths, -1)
            # Slices may or may not be contiguous; copies always are, so that one compiled version serves all.
            taken = [np.ascontiguousarray(each[..., block]) for each in (values, fixed, groups, factor[block], codes)]

            def work(first: int, debt: Any = debt, taken: Any = taken) -> None:
                part = slice(first, first + step)
                values, fixed, groups, inner, codes = taken
                _choose_block(
                    *(values[part], fixed[part], groups, inner, tables[part], min_bits, ratio, debt[part], codes[part])
                )

            list(pool.map(work, range(0, rows, step)))
            errors[..., block], codes[:, block] = debt, taken[-1]


@compiled
def _choose_block(
    values: Any, fixed: Any, groups: Any, factor: Any, tables: Any, min_bits: int, ratio: float, debt: Any, codes: Any
) -> None:
    """Choose the codes of a block of columns, row by row.

    Args:
        values: ``[R, n]`` float32: the weights, less what outliers add.
        fixed: ``[R, n]``: whose codes stay.
        groups: ``[n]``: the group of each column.
        factor: ``[n, n]`` float32, upper triangular with a diagonal of ones.
        tables: ``[R, groups, 2**(max_bits + 1)]`` float32: centroids of width b at ``2**b .. 2**(b + 1) - 1``.
        min_bits: Narrowest width.
        ratio: How many times as much an error counts at one more bit.
        debt: ``[R, widths, n]`` float32: what the errors of earlier blocks add to the targets; replaced by the errors
            of this block.
        codes: ``[R, n]`` uint8 at the widest width, chosen where not fixed.
    """
    rows, n = values.shape
    widths = debt.shape[1]
    top = 1 << (min_bits + widths - 1)
    cost = np.empty(2 * top, dtype=np.float32)
    for row in range(rows):
        for j in range(n):
            table = tables[row, groups[j]]
            value = values[row, j]
            if not fixed[row, j]:
                # From the widest width down: the least cost of any code below each node.
                share = np.float32(1)
                for width in range(widths - 1, -1, -1):
                    first = 1 << (min_bits + width)
                    target = value + debt[row, width, j]
                    for node in range(first, 2 * first):
                        miss = target - table[node]
                        cost[node] = share * miss * miss
                    if first < top:
                        for node in range(first, 2 * first):
                            cost[node] += min(cost[2 * node], cost[2 * node + 1])
                    share /= ratio
                first = 1 << min_bits
                node = first + int(np.argmin(cost[first : 2 * first]))
                while node < top:
                    node = 2 * node + (cost[2 * node + 1] < cost[2 * node])
                codes[row, j] = node - top
            for width in range(widths):
                node = (top + np.int64(codes[row, j])) >> (widths - 1 - width)
                error = value - table[node]
                debt[row, width, j] = error
                for later in range(j + 1, n):
                    debt[row, width, later] += error * factor[j, later]
