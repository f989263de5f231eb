"""Dense-and-Sparse: a few weights kept beside the dense part, in compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SparsePart:
    """Values added to the dense part of one matrix, in compressed sparse rows.

    Attributes:
        rows: ``[N + 1]`` int32: row n holds entries ``rows[n]`` to ``rows[n + 1] - 1``.
        cols: ``[nnz]`` int32: the column of each entry, rising within a row.
        vals: ``[nnz]`` float16.
    """

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    vals: NDArray[np.float16]
