"""Nested quantisation of one weight matrix: an exact seed clustering, then one exact split per extra bit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from accuracy.quantization.feedback import with_feedback
from accuracy.quantization.kmeans import nested_rows
from accuracy.quantization.sparse import SparsePart, dense_bits, sparse_bits, sparse_part, split_outliers
from hwsim.trace import MAX_PLANES, InputError

FP16_MAX = float(np.finfo(np.float16).max)
# A weight whose squared gradient vanished on the calibration text still has to land in a sensible cluster.
WEIGHT_FLOOR = 1e-6
CHUNK_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class NestedSettings:
    """What to store and how to find it.

    Attributes:
        min_bits: Seed width, clustered exactly; the narrowest width the store serves.
        max_bits: Widest nested width.
        group_size: Columns that share a codebook; None for one codebook per row.
        keep_full_precision: Store the unquantised weights (fp16) too, so that width 16 is legal.
        sensitivity: ``"none"``; ``"fisher"`` to weigh each squared error by the squared gradients over calibration
            text; ``"hessian"`` to choose codes one column after the other, each repairing the error that the earlier
            ones made in the layer's output (:mod:`accuracy.quantization.feedback`).
        joint_bits: Choose the clusters of all widths from the narrowest to this one together, each width's relative
            error counting alike, along the edges of 128 blocks of a row; None for the best clusters at the narrowest
            width, each split in two at its best. Joint clusters serve the wider widths better, the narrowest worse.
        outlier_share: Share of the weights kept apart in a sparse part (Dense-and-Sparse); they do not pull any
            centroid.
        outliers_by: Which ones: those of the largest ``"magnitude"``, or by ``"sensitivity"``, which needs one.
    """

    min_bits: int = 2
    max_bits: int = MAX_PLANES
    group_size: int | None = None
    keep_full_precision: bool = True
    sensitivity: str = "none"
    joint_bits: int | None = None
    outlier_share: float = 0.0
    outliers_by: str = "magnitude"

    def __post_init__(self) -> None:
        if not 1 <= self.min_bits <= self.max_bits <= MAX_PLANES:
            raise InputError(
                f"min_bits = {self.min_bits}, max_bits = {self.max_bits}: "
                f"must be 1 <= min_bits <= max_bits <= {MAX_PLANES}"
            )
        if self.group_size is not None and self.group_size < 1:
            raise InputError(f"group_size = {self.group_size}: must be >= 1, or none for one codebook per row")
        if self.sensitivity not in ("none", "fisher", "hessian"):
            raise InputError(f"sensitivity = {self.sensitivity!r}: must be 'none', 'fisher' or 'hessian'")
        if self.joint_bits is not None and not self.min_bits <= self.joint_bits <= self.max_bits:
            raise InputError(f"joint_bits = {self.joint_bits}: must be {self.min_bits}..{self.max_bits}, or none")
        if not 0 <= self.outlier_share <= 1:
            raise InputError(f"outlier_share = {self.outlier_share}: must be 0..1")
        if self.outliers_by not in ("magnitude", "sensitivity"):
            raise InputError(f"outliers_by = {self.outliers_by!r}: must be 'magnitude' or 'sensitivity'")
        if self.outliers_by == "sensitivity" and self.sensitivity != "fisher":
            raise InputError("outliers_by = 'sensitivity': needs one per weight; set sensitivity = 'fisher' too")

    @property
    def widths(self) -> tuple[int, ...]:
        """The nested widths, rising."""
        return tuple(range(self.min_bits, self.max_bits + 1))

    @property
    def statistic(self) -> str:
        """What has to be measured on calibration text."""
        return self.sensitivity

    @property
    def quantizer(self) -> str:
        """The name that stores and results carry."""
        name = "nested-kmeans" if self.sensitivity == "none" else f"nested-kmeans-{self.sensitivity}"
        if self.joint_bits not in (None, self.min_bits):
            name += f"-joint-{self.joint_bits}"
        return f"{name}-sparse-{self.outliers_by}-{self.outlier_share:g}" if self.outlier_share else name

    def quantize_matrix(
        self, weight: NDArray[np.floating], statistic: NDArray[np.floating] | None = None
    ) -> NestedMatrix:
        """Quantise one matrix: :func:`quantize_matrix` with these settings."""
        return quantize_matrix(weight, self, statistic)


@dataclass(frozen=True)
class NestedMatrix:
    """One quantised matrix.

    Attributes:
        indices: ``[N, K]`` uint8 at the widest width; the top b bits are the index at b bits.
        luts: Per width b, ``[N, groups, 2**b]`` float16, rising along the last dimension.
        group_size: Columns that share a codebook; None for one codebook per row.
        sparse: What is added to the dense part at every width; None for nothing.
    """

    indices: NDArray[np.uint8]
    luts: dict[int, NDArray[np.float16]]
    group_size: int | None
    sparse: SparsePart | None = None

    def dequantize(self, weight_bits: int) -> NDArray[np.float32]:
        """The matrix ``[N, K]`` at ``weight_bits``, the sparse part added in float32."""
        N, K = self.indices.shape
        tables = self.luts[weight_bits].astype(np.float32).reshape(N, -1)
        entries = (self.indices >> (max(self.luts) - weight_bits)).astype(np.intp)
        if self.group_size is not None:
            entries += (np.arange(K) // self.group_size) << weight_bits
        weight: NDArray[np.float32] = np.take_along_axis(tables, entries, axis=1)
        if self.sparse is not None:
            row = np.repeat(np.arange(N), np.diff(self.sparse.rows))
            weight[row, self.sparse.cols] += self.sparse.vals
        return weight

    def bits_per_weight(self, weight_bits: int) -> float:
        """Bits read per weight at one width.

        Counted are the planes, each padded to whole words of 32 columns, the codebook of that width alone, and the
        sparse part with its indices (16 bits a value, 32 a column, 32 a row).
        """
        N, K = (int(length) for length in self.indices.shape)
        bits = dense_bits((N, K), weight_bits, self.group_size)
        if self.sparse is not None:
            bits += sparse_bits(N, self.sparse.vals.size)
        return bits / (N * K)


def check_weights(name: str, weight: NDArray[np.floating]) -> None:
    """Refuse what no fp16 codebook can hold.

    Raises:
        InputError: If a weight is NaN, infinite or beyond the fp16 range; names the first one.
    """
    wrong = ~(np.abs(weight) <= FP16_MAX)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{name}.weight: {int(wrong.sum())} of {weight.size} weights are not finite fp16 numbers, the first "
            f"{weight[row, column]} at [{row}, {column}]; must be within +-{FP16_MAX:.0f}: repair the model"
        )


def quantize_matrix(
    weight: NDArray[np.floating], settings: NestedSettings, sensitivity: NDArray[np.floating] | None = None
) -> NestedMatrix:
    """Cluster each row (or each group of a row) on its own.

    The error of every width is the least one that its parent clusters allow (or, up to ``joint_bits``, that of clusters
    which refine their parents), so it never rises with the width;
    rounding the centroids to fp16 keeps that, since the nearest fp16 number is also the best one. With
    ``sensitivity="hessian"`` codes are then chosen anew, for the error of the layer's output.

    Args:
        weight: ``[N, K]``, checked by :func:`check_weights`.
        settings: Widths and group size.
        sensitivity: For ``"fisher"`` ``[N, K]``, not negative: the weight of each squared error. For ``"hessian"``
            ``[K, K]``, the second moments of the layer's inputs. None for equal weights.

    Returns:
        The nested matrix; deterministic, whatever the number of cores. Outliers are right, up to fp16 rounding, at the
        mean of what the dense part holds for them over the widths: at the only width, where one is stored. With 0.5%
        of outliers by magnitude and widths 2..8 (28 matrices of two real models) they were off by 3% of their size
        (root mean square) at 2 and 3 bits, less than the kept weights are, 1% at 4 and 5, and at most 0.4% above.

    Raises:
        InputError: If the settings weigh errors and there is no sensitivity, or the Hessian is unusable.
    """
    if settings.sensitivity != "none" and sensitivity is None:
        raise InputError(f"sensitivity = {settings.sensitivity!r}: none was measured; give one or set 'none'")
    if settings.sensitivity == "hessian":
        return with_feedback(quantize_matrix(weight, replace(settings, sensitivity="none")), weight, sensitivity)
    N, K = weight.shape
    group_size = min(settings.group_size or K, K)
    full, tail = divmod(K, group_size)
    groups = full + bool(tail)
    outliers = None
    if settings.outlier_share:
        score = sensitivity if settings.outliers_by == "sensitivity" else None
        outliers = split_outliers(weight, settings.outlier_share, score)
    indices = np.empty((N, K), dtype=np.uint8)
    tables = np.empty((N, groups, 2 << settings.max_bits))
    # All whole groups form one block of rows; a shorter last group is a block of its own.
    for columns, block in (((0, full * group_size), slice(0, full)), ((full * group_size, K), slice(full, groups))):
        count = block.stop - block.start
        if not count:
            continue
        part, shape = slice(*columns), (N * count, -1)
        rows = np.ascontiguousarray(weight[:, part], dtype=np.float32).reshape(shape)
        weights = None if sensitivity is None else sensitivity[:, part].reshape(shape)
        left_out = None if outliers is None else outliers[:, part].reshape(shape)
        found, table = _cluster_rows(rows, weights, left_out, settings)
        indices[:, part] = found.reshape(N, -1)
        tables[:, block] = table.reshape(N, count, -1)
    luts = {bits: tables[..., 1 << bits : 2 << bits].astype(np.float16) for bits in settings.widths}
    matrix = NestedMatrix(indices, luts, settings.group_size)
    return matrix if outliers is None else _with_outliers(matrix, weight, outliers)


def _with_outliers(matrix: NestedMatrix, weight: NDArray[np.floating], outliers: NDArray[np.bool_]) -> NestedMatrix:
    """Add the sparse part that is right for the mean over the widths of what the dense part holds."""
    row, column = np.nonzero(outliers)
    group = column // (matrix.group_size or weight.shape[1])
    path = matrix.indices[row, column]
    held = [lut[row, group, path >> (max(matrix.luts) - bits)].astype(np.float32) for bits, lut in matrix.luts.items()]
    dense = np.zeros(weight.shape, dtype=np.float32)
    dense[row, column] = np.mean(held, axis=0)
    return replace(matrix, sparse=sparse_part(weight, outliers, dense))


def _row_weights(sensitivity: NDArray[np.floating], left_out: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Positive weights ``[R, n]``, of mean one in each row; a row without any sensitivity counts evenly."""
    rows = sensitivity.astype(np.float64)
    if left_out is not None:
        rows[left_out] = 0.0
    mean = rows.mean(axis=1, keepdims=True)
    scaled = np.divide(rows, mean, out=np.ones_like(rows), where=mean > 0)
    weights: NDArray[np.float64] = np.maximum(scaled, WEIGHT_FLOOR)
    return weights


def _rising_columns(rows: NDArray[np.float32], left_out: NDArray[np.bool_] | None) -> NDArray[np.uint32]:
    """The columns ``[R, n]`` of each row by rising value, those left out at the end.

    A float32 whose bits are flipped (the sign bit of a positive number, all bits of a negative one) sorts as an integer
    does, so that value and column sort as one 64-bit number: twice as fast as an argsort.
    """
    # Adding zero turns -0.0, which is equal to 0.0 but has other bits, into it.
    bits = (rows + np.float32(0)).view(np.uint32)
    keys = (bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31))).astype(np.uint64)
    if left_out is not None:
        keys[left_out] = 0xFFFFFFFF
    keys <<= np.uint64(32)
    keys |= np.arange(rows.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return keys.astype(np.uint32)


def _cluster_rows(
    rows: NDArray[np.float32],
    sensitivity: NDArray[np.floating] | None,
    left_out: NDArray[np.bool_] | None,
    settings: NestedSettings,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Run :func:`nested_rows` on chunks of rows, one thread per core (numpy and compiled code release the GIL)."""
    R, n = rows.shape
    indices = np.empty((R, n), dtype=np.uint8)
    tables = np.zeros((R, 2 << settings.max_bits))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A few chunks per thread even out rows of unequal cost; small ones keep what is derived from them in the cache.
    step = max(1, min(-(-R // (4 * threads)), CHUNK_WEIGHTS // n))

    def work(start: int) -> None:
        part = slice(start, start + step)
        out = None if left_out is None else left_out[part]
        weights = np.ones((1, n)) if sensitivity is None else _row_weights(sensitivity[part], out)
        order = _rising_columns(rows[part], out)
        counts = np.full(len(order), n) if out is None else n - out.sum(axis=1)
        bits = (settings.min_bits, settings.joint_bits or settings.min_bits, settings.max_bits)
        nested_rows(rows[part], weights, order, counts, *bits, indices[part], tables[part])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, R, step)))
    return indices, tables
