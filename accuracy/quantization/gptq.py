"""GPTQ: columns are rounded one after the other, and what each rounding breaks is repaired by those still to come.

The published algorithm, since the library that maintains it (GPTQModel) needs an older numpy than this project; in the
form of :mod:`accuracy.quantization.hessian`, which never inverts the Hessian.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv:2210.17323.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from accuracy.quantization.hessian import BLOCK_COLUMNS, hessian_of, upper_factor
from accuracy.quantization.nested import NestedMatrix
from accuracy.quantization.rtn import UniformGrid, check_grid, grid_matrix
from hwsim.trace import InputError


@dataclass(frozen=True)
class GptqSettings:
    """Round to a uniform grid column by column, minimising the error of the layer's output.

    Attributes:
        bits: Width of a code, 1..8; at least 2 if symmetric.
        group_size: Columns that share a grid; None for one grid per row.
        symmetric: Centre the grid on zero.
        damping: Added to the Hessian's diagonal, as a share of its mean.
        act_order: Round the columns of the largest inputs first. Grids of groups are then found from the unquantised
            weights, else from the repaired ones when their group starts.
        keep_full_precision: Store the unquantised weights (fp16) too.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = False
    damping: float = 0.01
    act_order: bool = True
    keep_full_precision: bool = False

    def __post_init__(self) -> None:
        check_grid(self.bits, self.group_size, self.symmetric)
        if not 0 <= self.damping <= 1:
            raise InputError(f"damping = {self.damping}: must be 0..1, a share of the Hessian's mean diagonal")

    @property
    def quantizer(self) -> str:
        """The name that stores and results carry."""
        return "gptq"

    @property
    def widths(self) -> tuple[int, ...]:
        """The one stored width."""
        return (self.bits,)

    @property
    def statistic(self) -> str:
        """Needs the second moments of the layer's inputs."""
        return "hessian"

    def quantize_matrix(self, weight: NDArray[np.floating], statistic: NDArray[np.floating] | None) -> NestedMatrix:
        """Quantise a matrix ``[N, K]`` of finite fp16 numbers.

        Args:
            weight: ``[N, K]``.
            statistic: ``[K, K]``: X X^T over the calibration inputs, at any positive scale.

        Raises:
            InputError: If the statistic is missing, of another shape, not finite, or far from positive definite.
        """
        K = weight.shape[1]
        columns = self.group_size or K
        values, hessian = torch.tensor(weight, dtype=torch.float32), hessian_of(statistic, K)
        grids = [UniformGrid.spanning(group, self.bits, self.symmetric) for group in torch.split(values, columns, 1)]
        order = torch.arange(K)
        if self.act_order:
            order = hessian.diagonal().argsort(descending=True, stable=True)
            values, hessian = values[:, order], hessian[order][:, order]
        factor = upper_factor(hessian, self.damping)
        del hessian
        late_grids = self.group_size is not None and not self.act_order
        # One contiguous stretch of memory per column, since columns are what the loop takes.
        values = values.T.contiguous().T
        errors, codes = torch.empty_like(values), torch.empty_like(values)
        # A grid found late needs every repair before it, so no block spans the start of a group.
        starts = sorted({*range(0, K, BLOCK_COLUMNS), *(range(0, K, columns) if late_grids else ())})
        for start, end in pairwise([*starts, K]):
            if late_grids and start % columns == 0:
                group = slice(start, start + columns)
                debt = errors[:, :start] @ factor[:start, group]
                repair = torch.linalg.solve_triangular(factor[group, group], debt, upper=True, left=False)
                grids[start // columns] = UniformGrid.spanning(values[:, group] + repair, self.bits, self.symmetric)
            debt = (factor[:start, start:end].T @ errors[:, :start].T).T
            for position in range(start, end):
                grid = grids[int(order[position]) // columns]
                column, owed = slice(position, position + 1), slice(position - start, position - start + 1)
                codes[:, column] = grid.nearest(values[:, column] + debt[:, owed] / factor[position, position])
                errors[:, column] = values[:, column] - grid.points(codes[:, column])
                debt[:, owed.stop :].addr_(errors[:, position], factor[position, column.stop : end])
        codes[:, order] = codes.clone()
        return grid_matrix(codes, grids, self.group_size)
