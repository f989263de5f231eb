"""Every way of clustering that is compared, each giving a label per weight."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accuracy.quantization import NestedSettings, quantize_matrix
from hwsim.trace import InputError
from studies.common.machine import usable_cores
from studies.kmeans_comparison.rows import Part

Labels = NDArray[np.uint8]
# What any-precision-llm allows; flash1dkmeans' own default is 300, which errors are compared at.
ORIGINAL_ITERATIONS, DEFAULT_ITERATIONS = 50, 300
SEED = 0


def ours(part: Part, min_bits: int, max_bits: int, joint_bits: int | None = None) -> Labels:
    """Our whole pipeline, on every core that this process may use; up to ``joint_bits`` clusters are chosen jointly."""
    sensitivity = part.sensitivity
    kind = "none" if sensitivity is None else "fisher"
    settings = NestedSettings(min_bits, max_bits, sensitivity=kind, joint_bits=joint_bits)
    return quantize_matrix(part.values, settings, sensitivity).indices


def original(
    part: Part, min_bits: int, max_bits: int, iterations: int = DEFAULT_ITERATIONS, *, sorts_itself: bool = True
) -> Labels:
    """The original's pipeline, on as many cores.

    Args:
        part: Rows of more than ``2**min_bits`` columns.
        min_bits: Seed width, clustered by flash1dkmeans.
        max_bits: Parent width, reached by its two-way splits.
        iterations: Bound on Lloyd's iterations.
        sorts_itself: Sort in compiled code, as the original does, rather than by numpy, which is faster.

    Raises:
        InputError: If flash1dkmeans is not installed.
    """
    rows = optional("flash1dkmeans") and import_module("studies.kmeans_comparison.original").pipeline_rows
    labels = np.empty(part.values.shape, dtype=np.uint8)

    def work(chunk: slice) -> None:
        values = part.values[chunk]
        order = np.empty((len(values), 0), dtype=np.int64) if sorts_itself else np.argsort(values, axis=1)
        rows(values, part.weights[chunk], order, min_bits, max_bits, iterations, SEED, labels[chunk])

    _in_threads(work, len(labels))
    return labels


def scikit_learn(part: Part, bits: int) -> Labels:
    """scikit-learn's ``KMeans(sample_weight)`` with its default settings, row by row.

    Raises:
        InputError: If scikit-learn is not installed.
    """
    optional("sklearn", "scikit-learn")
    from sklearn.cluster import KMeans

    labels = np.empty(part.values.shape, dtype=np.uint8)

    def work(chunk: slice) -> None:
        for row in range(*chunk.indices(len(labels))):
            column = part.values[row, :, None].astype(np.float64)
            # More clusters than distinct values are refused.
            clusters = min(1 << bits, np.unique(column).size)
            found = KMeans(clusters, random_state=SEED).fit(column, sample_weight=part.weights[row])
            labels[row] = found.labels_

    _in_threads(work, len(labels))
    return labels


def partition_errors(part: Part, labels: Labels, shift: int = 0) -> NDArray[np.float64]:
    """Weighted squared error ``[R]`` of every row about its clusters' means; ``shift`` drops that many low bits.

    Labels alone decide: nobody gains or loses by how centroids are rounded.
    """
    R, _ = labels.shape
    cell = (np.arange(R)[:, None] * 256 + (labels >> shift)).ravel()
    w, x = part.weights.ravel(), part.values.astype(np.float64).ravel()
    mass, moment = np.bincount(cell, w, 256 * R), np.bincount(cell, w * x, 256 * R)
    means = np.divide(moment, mass, out=np.zeros_like(mass), where=mass > 0)
    errors: NDArray[np.float64] = (w * (x - means[cell]) ** 2).reshape(labels.shape).sum(axis=1)
    return errors


def optional(module: str, package: str | None = None) -> Any:
    """Import what only this comparison needs.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"{package or module} is not installed: this study compares with it; pip install 'bittaper[bench]'"
        ) from None


def _in_threads(work: Callable[[slice], None], rows: int) -> None:
    """Run ``work`` on chunks of rows, one thread per core that this process may use."""
    step = max(1, -(-rows // (4 * usable_cores())))
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(work, (slice(start, start + step) for start in range(0, rows, step))))
