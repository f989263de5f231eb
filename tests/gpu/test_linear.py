"""Products of every width on a GPU."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import SEED, TOLERANCE, random_problem, relative_error
from kernels import linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("width", range(2, 9))
def test_every_width_is_within_rounding_of_float64(width: int) -> None:
    # A row that fills no block, rows that fill no tile; GEMV, fused GEMM, and dequantised for cuBLAS.
    for M in (1, 20, 130):
        problem = random_problem(M, 130, 1100, width, bits=8)
        error = relative_error(linear(problem.x, problem.packed, width, problem.bias), problem.product)
        assert error < TOLERANCE, f"M = {M}: relative error {error} (seed {SEED})"
