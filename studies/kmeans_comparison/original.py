"""The original's pipeline by flash1dkmeans' public calls, compiled; import it through :mod:`.methods` only.

Its shape is any-precision-llm's: sort a row, k-means++ and at most 50 of Lloyd's iterations at the seed width, then a
two-way split of every cluster per extra bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from flash1dkmeans import numba_kmeans_1d_k_cluster, numba_kmeans_1d_two_cluster


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def pipeline_rows(
    values: Any, weights: Any, order: Any, min_bits: int, max_bits: int, iterations: int, seed: int, labels: Any
) -> None:
    """Cluster every row at ``min_bits`` and split up to ``max_bits``.

    Args:
        values: ``[R, n]`` float32.
        weights: ``[R, n]`` float64.
        order: ``[R, n]`` int64, the columns by rising value; or ``[R, 0]`` to sort here, as the original does.
        min_bits: Seed width.
        max_bits: Parent width.
        iterations: Bound on Lloyd's iterations.
        seed: Of k-means++, the same for every row.
        labels: Output ``[R, n]`` uint8, the cluster at ``max_bits``.
    """
    for row in range(values.shape[0]):
        n = values.shape[1]
        by_value = np.argsort(values[row]) if order.shape[1] == 0 else order[row]
        x, w = values[row][by_value], weights[row][by_value]
        wx = w * x.astype(np.float64)
        mass, moment, square = np.cumsum(w), np.cumsum(wx), np.cumsum(wx * x)
        _, bounds = numba_kmeans_1d_k_cluster(x, 1 << min_bits, iterations, mass, moment, square, 0, n, seed)
        for bits in range(min_bits, max_bits):
            split = np.empty((2 << bits) + 1, dtype=bounds.dtype)
            split[-1] = n
            for c in range(1 << bits):
                split[2 * c] = split[2 * c + 1] = bounds[c]
                if bounds[c] < bounds[c + 1]:
                    _, both = numba_kmeans_1d_two_cluster(x, mass, moment, bounds[c], bounds[c + 1])
                    split[2 * c + 1] = both[1]
            bounds = split
        for c in range(1 << max_bits):
            labels[row][by_value[bounds[c] : bounds[c + 1]]] = c
