"""Decoders, dtypes, sparse parts, addends and SwiGLU on a GPU, each by all three ways of multiplying."""

from __future__ import annotations

import pytest
import torch

from kernel_problems import SEED, TOLERANCE, random_problem, relative_error
from kernels import linear, swiglu_linear
from kernels.gemm import dequantize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# bfloat16 rounds weights and result by 2**-9 each.
TOLERANCES = {torch.float16: TOLERANCE, torch.bfloat16: 1e-2}
VARIANTS = {
    "grid": (3, {"uniform": True}, "grid"),
    "wide grid by group": (8, {"uniform": True, "group_size": 128}, "grid"),
    "permute by group": (3, {"group_size": 128}, "permute"),
    "lookup by group": (4, {"group_size": 33}, "lookup"),
    "bfloat16": (4, {"dtype": torch.bfloat16}, "permute"),
    "bfloat16 lookup": (5, {"dtype": torch.bfloat16}, "lookup"),
    "sparse": (3, {"sparse": True}, "permute"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_is_within_rounding_of_float64(variant: str) -> None:
    width, options, decoder = VARIANTS[variant]
    for M in (3, 20, 130):
        problem = random_problem(M, 70, 1024, width, **options)
        assert problem.packed.decoder(width) == decoder
        y = linear(problem.x, problem.packed, width, problem.bias)
        assert y.dtype == problem.x.dtype
        error = relative_error(y, problem.product)
        assert error < TOLERANCES[y.dtype], f"M = {M}: relative error {error} (seed {SEED})"


def test_swiglu_and_addend_are_those_of_float64() -> None:
    for M in (3, 20, 130):
        problem = random_problem(M, 70, 1024, 4, sparse=True)
        addend = torch.randn(M, 70, device="cuda")
        expected = problem.product + addend.double()
        y = linear(problem.x, problem.packed, 4, problem.bias, addend=addend)
        assert relative_error(y, expected) < TOLERANCE, f"M = {M} (seed {SEED})"
        expected = torch.nn.functional.silu(expected[:, 0::2]) * expected[:, 1::2]
        y = swiglu_linear(problem.x, problem.packed, 4, problem.bias, addend=addend)
        # By cuBLAS the product is rounded before gate and up are multiplied.
        assert relative_error(y, expected) < 2 * TOLERANCE, f"M = {M} (seed {SEED})"


@pytest.mark.parametrize("variant", VARIANTS)
def test_dequantised_weight_is_the_naive_one_bit_by_bit(variant: str) -> None:
    width, options, _ = VARIANTS[variant]
    problem = random_problem(1, 70, 1100, width, **options)
    for dtype in (torch.float16, torch.bfloat16):
        expected = problem.weight.to(dtype) + problem.sparse.to(dtype)
        found = dequantize(problem.packed, width, dtype)
        assert torch.equal(found, expected), f"{dtype} (seed {SEED})"
