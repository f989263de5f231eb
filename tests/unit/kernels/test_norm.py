"""Norms and the gated activation, kernel and plain torch, against float64."""

from __future__ import annotations

import math
import time

import pytest
import torch

from kernels import KernelError, fallback

norm = pytest.importorskip("kernels.norm", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Fresh data in every run; the seed is printed with a failure.
SEED = time.time_ns() % 2**31
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
IMPLEMENTATIONS = pytest.mark.parametrize("ops", [norm, fallback], ids=["kernel", "torch"])


def guarded(M: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """Random rows of a mean and a spread of their own, between two rows of NaN."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(M, hidden, generator=generator) * 3 + torch.randn(M, 1, generator=generator) * 5
    rows = torch.full((M + 2, hidden), math.nan, dtype=dtype)
    rows[1:-1] = x
    return rows.to(DEVICE)


def vectors(hidden: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED + 1)
    weight, bias = torch.randn(2, hidden, generator=generator).to(dtype).to(DEVICE)
    return weight, bias


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((found.double() - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE[found.dtype], f"relative error {error} (seed {SEED})"


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("M", "hidden", "dtype"),
    [
        (1, 4096, torch.float16),
        (8, 63, torch.float16),
        (3, 1, torch.float32),
        (5, 2560, torch.float32),
        (2, 123, torch.bfloat16),
    ],
)
def test_norms_are_those_of_float64(M: int, hidden: int, dtype: torch.dtype, ops) -> None:
    rows, (weight, bias) = guarded(M, hidden, dtype), vectors(hidden, dtype)
    x = rows[1:-1].double()
    rms = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert_close(ops.rms_norm(rows[1:-1], weight, 1e-5), rms)
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt() * weight.double()
    assert_close(ops.layer_norm(rows[1:-1], weight, bias, 1e-3), scaled + bias.double())
    if hidden > 1:
        assert_close(ops.layer_norm(rows[1:-1], weight, None, 1e-3), scaled)


@IMPLEMENTATIONS
def test_rows_of_zeros_and_of_one_value_stay_finite(ops) -> None:
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    x[1] = 7.0
    weight, bias = vectors(40, torch.float16)
    assert torch.equal(ops.rms_norm(x, weight, 1e-6)[0], torch.zeros_like(weight))
    # The mean of equal values is off by a rounding, which the small eps makes a thousand times larger.
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-6), bias.expand(2, 40), atol=5e-3, rtol=0)


def test_poisoned_output_is_overwritten_whole_and_nothing_beside_it() -> None:
    rows, (weight, _) = guarded(2, 77, torch.float16), vectors(77, torch.float16)
    out = torch.full_like(rows, math.nan)
    returned = norm.rms_norm(rows[1:-1], weight, 1e-5, out=out[1:-1])
    assert returned.data_ptr() == out[1:-1].data_ptr()
    assert out[1:-1].isfinite().all()
    assert out[[0, -1]].isnan().all()


@IMPLEMENTATIONS
@pytest.mark.parametrize(("M", "F"), [(1, 5632), (3, 7)])
def test_gated_silu_takes_gate_and_up_in_turn(M: int, F: int, ops) -> None:
    pairs = guarded(M, 2 * F, torch.float16)[1:-1]
    gate, up = pairs.double().view(M, F, 2).unbind(-1)
    assert_close(ops.gated_silu(pairs), gate / (1 + (-gate).exp()) * up)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@IMPLEMENTATIONS
def test_gates_far_from_zero_neither_overflow_nor_leave_a_rest(ops) -> None:
    pairs = torch.tensor([[-60000.0, 2.0, 60000.0, 1.0]], dtype=torch.float16, device=DEVICE)
    assert ops.gated_silu(pairs).abs().tolist() == [[0.0, 60000.0]]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x, w: norm.rms_norm(x[0], w, 1e-5), r"x has shape \(40,\): must be \[M, hidden\]"),
        (lambda x, w: norm.rms_norm(x.T, w, 1e-5), r"x has shape \(40, 2\)"),
        (lambda x, w: norm.rms_norm(x, w[1:], 1e-5), r"weight has shape \(39,\)"),
        (lambda x, w: norm.layer_norm(x, w, w[1:], 1e-5), r"bias has shape \(39,\)"),
        (lambda x, w: norm.rms_norm(x, w, 1e-5, out=x.float()), r"out torch\.float32 \(2, 40\)"),
        (lambda x, w: norm.gated_silu(x[:, 1:].contiguous()), r"pairs have shape \(2, 39\)"),
        (lambda x, w: norm.gated_silu(x[:, ::2]), r"pairs have shape \(2, 20\)"),
    ],
)
def test_input_the_kernels_cannot_take_is_refused_by_name(call, named: str) -> None:
    x = torch.zeros(2, 40, dtype=torch.float16, device=DEVICE)
    with pytest.raises(KernelError, match=named):
        call(x, torch.zeros(40, dtype=torch.float16, device=DEVICE))
