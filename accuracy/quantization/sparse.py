"""Dense-and-Sparse: a few outlier weights kept apart at full precision, so that the dense part spans less.

Bit accounting, the same everywhere an average width is stated. A matrix ``[N, K]`` read at b bits costs::

    dense    b planes of N rows padded to words of 32 columns, and N * groups codebooks of 2**b fp16 entries
    sparse   16 bits of value and 32 of column per outlier, and 32 per row pointer (N + 1 of them)

and the average width of a model is the sum of both over all its matrices, divided by the number of weights.

Source: Kim et al., "SqueezeLLM: Dense-and-Sparse Quantization", arXiv:2306.07629, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.trace import MAX_PLANES, InputError

_FP16_MAX = np.float32(np.finfo(np.float16).max)
WORD_BITS = 32
VALUE_BITS = 16
INDEX_BITS = 32
# How far the average width that a model really stores may lie from the requested one.
TOLERANCE_BITS = 0.005


@dataclass(frozen=True)
class SparsePart:
    """Outliers in compressed sparse rows, added to the dense part of a matrix ``[N, K]``.

    Attributes:
        rows: ``[N + 1]`` int32: row n holds the outliers ``rows[n] .. rows[n + 1] - 1``.
        cols: ``[nnz]`` int32, rising within a row.
        vals: ``[nnz]`` float16.
    """

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    vals: NDArray[np.float16]


def split_outliers(
    weight: NDArray[np.floating], share: float, statistic: NDArray[np.floating] | None = None
) -> NDArray[np.bool_]:
    """Choose the outliers of a matrix.

    By magnitude they are the largest ``|w|`` of the whole matrix. By sensitivity they are the largest ``F w^2``: twice
    the loss that zeroing a weight would cost to second order. (SqueezeLLM takes the largest F, whatever the weight: on
    two small models at 2 bits, Fisher-weighted, that gained a seventh of what F w^2 did or less, and magnitude most.)

    Args:
        weight: ``[N, K]``, finite.
        share: Part of the weights to take, 0..1.
        statistic: ``[N, K]``, not negative: squared gradients (F); None to choose by magnitude.

    Returns:
        ``[N, K]``, true for exactly ``round(share * N * K)`` outliers; of equal scores the first in row order.

    Raises:
        InputError: If the share is out of bounds.
    """
    if not 0 <= share <= 1:
        raise InputError(f"outlier share = {share}: must be 0..1")
    count = _outlier_count(share, weight.size)
    score = np.abs(weight).ravel() if statistic is None else (statistic * np.square(weight, dtype=np.float64)).ravel()
    if count in (0, score.size):
        return np.full(weight.shape, count > 0)
    threshold = np.partition(score, score.size - count)[score.size - count]
    mask: NDArray[np.bool_] = score > threshold
    ties = np.flatnonzero(score == threshold)
    mask[ties[: count - int(mask.sum())]] = True
    return mask.reshape(weight.shape)


def sparse_part(weight: NDArray[np.floating], mask: NDArray[np.bool_], dense: NDArray[np.floating]) -> SparsePart:
    """What has to be added to the dense part, so that the outliers are right.

    They are exact, up to fp16 rounding of the difference, at the width that ``dense`` was read at; at another one
    they are off by what the dense part changes there.

    Args:
        weight: ``[N, K]``, finite fp16 numbers.
        mask: ``[N, K]``, true for outliers.
        dense: ``[N, K]``, the dequantised dense part.
    """
    rows = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    difference = weight[mask].astype(np.float32) - dense[mask].astype(np.float32)
    vals = np.clip(difference, -_FP16_MAX, _FP16_MAX).astype(np.float16)
    return SparsePart(rows, np.nonzero(mask)[1].astype(np.int32), vals)


def dense_bits(shape: tuple[int, int], bits: int, group_size: int | None = None) -> int:
    """Size of the planes and codebooks that a matrix ``[N, K]`` reads at ``bits``."""
    N, K = shape
    groups = -(-K // (group_size or K))
    return N * (bits * WORD_BITS * -(-K // WORD_BITS) + VALUE_BITS * groups * (1 << bits))


def sparse_bits(rows: int, outliers: int) -> int:
    """Size of the sparse part of a matrix of that many rows."""
    return outliers * (VALUE_BITS + INDEX_BITS) + (rows + 1) * INDEX_BITS


def average_bits(shapes: Sequence[tuple[int, int]], bits: int, share: float, group_size: int | None = None) -> float:
    """Average width of a model's matrices with ``share`` of each one's weights taken out as outliers."""
    total = sum(dense_bits((N, K), bits, group_size) + sparse_bits(N, _outlier_count(share, N * K)) for N, K in shapes)
    return total / sum(N * K for N, K in shapes)


def outlier_share_for(
    requested_bits: float, shapes: Sequence[tuple[int, int]], bits: int, group_size: int | None = None
) -> float:
    """The share of outliers with which a model of dense width ``bits`` stores a requested average width.

    The average counts codebooks and padding. A schedule's mean width counts planes only: to compare with one, request
    that mean plus the codebooks' share that the schedule's own store reads.

    Args:
        requested_bits: Average bits per weight, such as 2.39.
        shapes: ``(N, K)`` of every matrix of the model.
        bits: Dense width, 1..8.
        group_size: Columns that share a codebook; None for one codebook per row.

    Raises:
        InputError: If no share gives that average to within 0.005: it is below what the dense part alone needs, above
            what all weights as outliers would, or the matrices are so small that one outlier is too much.
    """
    if not 1 <= bits <= MAX_PLANES:
        raise InputError(f"bits = {bits}: must be 1..{MAX_PLANES}")
    least, most = (average_bits(shapes, bits, share, group_size) for share in (0.0, 1.0))
    if not least <= requested_bits <= most:
        raise InputError(
            f"average bits = {requested_bits}: must be {least:.4f}..{most:.4f}, what a {bits}-bit dense part with "
            "its codebooks and row pointers stores without and with all outliers; change the request or the width"
        )
    share = (requested_bits - least) / (VALUE_BITS + INDEX_BITS)
    stored = average_bits(shapes, bits, share, group_size)
    if abs(stored - requested_bits) > TOLERANCE_BITS:
        raise InputError(
            f"average bits = {requested_bits}: the nearest whole numbers of outliers give {stored:.4f}, further than "
            f"{TOLERANCE_BITS}; the matrices are too small, request {stored:.4f}"
        )
    return share


def _outlier_count(share: float, weights: int) -> int:
    return round(share * weights)
