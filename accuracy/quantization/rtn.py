"""Round-to-nearest on a uniform grid: the baseline every other quantiser must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accuracy.quantization.nested import NestedMatrix
from accuracy.quantization.sparse import WORD_BITS
from hwsim.trace import MAX_PLANES, InputError

# The smallest positive fp16 number: a step must not vanish.
_MIN_STEP = 2.0**-24
_FP16_MAX = float(np.finfo(np.float16).max)
_STEP_BITS = 16


@dataclass(frozen=True)
class UniformGrid:
    """``2**bits`` evenly spaced points per row: point c lies at ``(c - zero) * step``, rounded to fp16.

    Attributes:
        step: ``[N, 1]`` float32, positive fp16 numbers.
        zero: ``[N, 1]`` float32, whole: the code of weight 0.
        bits: Width of a code.
    """

    step: Tensor
    zero: Tensor
    bits: int

    @classmethod
    def spanning(cls, weight: Tensor, bits: int, symmetric: bool) -> UniformGrid:
        """The grid of each row of ``weight`` ``[N, n]`` float32.

        An asymmetric grid spans the smallest to the largest weight, zero included. A symmetric one is centred on
        zero, whose code is ``2**(bits - 1)``; having an even number of points, it reaches one step less far up than
        down, so the largest weights on the positive side are cut (at 2 bits to two thirds).
        """
        top = (1 << bits) - 1
        low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        # Codes are found on the grid that is stored, so the step is rounded first.
        step = ((high - low) / top).clamp(_MIN_STEP, _FP16_MAX).half().float()
        zero = torch.full_like(step, (top + 1) / 2) if symmetric else (-low / step).round().clamp(0, top)
        return cls(step, zero, bits)

    def nearest(self, weight: Tensor) -> Tensor:
        """The code of the nearest point, ``[N, n]`` float32, whole."""
        return ((weight / self.step).round() + self.zero).clamp(0, (1 << self.bits) - 1)

    def points(self, codes: Tensor) -> Tensor:
        """The points of codes, float32 holding fp16 numbers."""
        return ((codes - self.zero) * self.step).clamp(-_FP16_MAX, _FP16_MAX).half().float()


@dataclass(frozen=True)
class RtnSettings:
    """Round every weight to the nearest point of a uniform grid.

    Attributes:
        bits: Width of a code, 1..8; at least 2 if symmetric.
        group_size: Columns that share a grid; None for one grid per row.
        symmetric: Centre the grid on zero.
        keep_full_precision: Store the unquantised weights (fp16) too.

    Source: the grids of Frantar et al., "GPTQ", arXiv:2210.17323.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = False
    keep_full_precision: bool = False

    def __post_init__(self) -> None:
        check_grid(self.bits, self.group_size, self.symmetric)

    @property
    def quantizer(self) -> str:
        """The name that stores and results carry."""
        return "rtn"

    @property
    def widths(self) -> tuple[int, ...]:
        """The one stored width."""
        return (self.bits,)

    @property
    def statistic(self) -> str:
        """Needs no calibration text."""
        return "none"

    def quantize_matrix(
        self, weight: NDArray[np.floating], statistic: NDArray[np.floating] | None = None
    ) -> NestedMatrix:
        """Round a matrix ``[N, K]`` of finite fp16 numbers."""
        values = torch.tensor(weight, dtype=torch.float32)
        groups = torch.split(values, self.group_size or values.shape[1], 1)
        grids = [UniformGrid.spanning(group, self.bits, self.symmetric) for group in groups]
        codes = torch.cat([grid.nearest(group) for grid, group in zip(grids, groups, strict=True)], dim=1)
        return grid_matrix(codes, grids, self.group_size)


def check_grid(bits: int, group_size: int | None, symmetric: bool) -> None:
    """Refuse a grid that cannot be.

    Raises:
        InputError: If the width or the group size is out of bounds.
    """
    if not 1 + symmetric <= bits <= MAX_PLANES:
        raise InputError(f"bits = {bits}: must be {1 + symmetric}..{MAX_PLANES}")
    if group_size is not None and group_size < 1:
        raise InputError(f"group_size = {group_size}: must be >= 1, or none for one grid per row")


def grid_matrix(codes: Tensor, grids: list[UniformGrid], group_size: int | None) -> NestedMatrix:
    """A matrix on uniform grids as a nested one of a single width, its codebooks holding the grid points.

    Args:
        codes: ``[N, K]``, whole numbers.
        grids: One per group of columns.
        group_size: Columns per group; None for one group.
    """
    bits = grids[0].bits
    every = torch.arange(1 << bits, dtype=torch.float32)
    table = torch.stack([grid.points(every) for grid in grids], dim=1).half()
    return NestedMatrix(codes.to(torch.uint8).contiguous().numpy(), {bits: table.numpy()}, group_size)


def grid_bits(shape: tuple[int, int], bits: int, group_size: int | None = None, symmetric: bool = False) -> int:
    """Bits of a matrix ``[N, K]`` on uniform grids that are stored as such: what a kernel for uniform codes reads.

    Codes are padded to words like planes. A grid takes its step (16 bits) and, unless symmetric, the code of zero, as
    wide as a code; the codebook of its points, which a store holds so that one decoder serves all, takes
    ``16 * 2**bits``.
    """
    N, K = shape
    groups = -(-K // (group_size or K))
    grid = _STEP_BITS + (0 if symmetric else bits)
    return N * (bits * WORD_BITS * -(-K // WORD_BITS) + groups * grid)
