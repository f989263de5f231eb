"""Norms and the gated activation in Triton: what a decode step does to whole rows between its linears.

A program takes one row, in fp32 throughout; sums over a row have one order, so equal inputs give equal bits.
Importing this module needs triton; :mod:`kernels.fallback` has the same functions in plain torch.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.epilogue import on_device
from kernels.errors import KernelError

_MAX_HIDDEN = 1 << 16
_GATED_BLOCK = 1024


@triton.jit
def _norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    hidden,
    eps,
    BLOCK: tl.constexpr,
    CENTRED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Normalise one row; ``CENTRED`` takes its mean away first."""
    row = tl.program_id(0).to(tl.int64) * hidden
    column = tl.arange(0, BLOCK)
    inside = column < hidden
    # All loads are on their way before the first sum waits for one.
    x = tl.load(x_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        x = tl.where(inside, x - tl.sum(x, 0) / hidden, 0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / hidden + eps) * weight
    if HAS_BIAS:
        y += bias
    tl.store(out_ptr + row + column, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_silu_kernel(pairs_ptr, out_ptr, total, BLOCK: tl.constexpr):
    """``silu(gate) * up`` of pairs that lie side by side."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    gate = tl.load(pairs_ptr + 2 * at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(pairs_ptr + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    Args:
        x: ``[M, hidden]``, contiguous, of a floating dtype.
        weight: ``[hidden]``.
        eps: Added to the mean square.
        out: Where to write, as ``x``; allocated by default.

    Returns:
        As ``x``, computed in float32 and rounded once.

    Raises:
        KernelError: If a shape, stride or device does not fit.
    """
    return _norm(x, weight, None, eps, out, centred=False)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, out: Tensor | None = None) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last dimension; as :func:`rms_norm` otherwise."""
    return _norm(x, weight, bias, eps, out, centred=True)


def gated_silu(pairs: Tensor) -> Tensor:
    """``silu(gate) * up`` of an interleaved gate and up projection.

    Args:
        pairs: ``[M, 2 F]``, contiguous: gate 0, up 0, gate 1, ...

    Returns:
        ``[M, F]``, computed in float32 and rounded once.

    Raises:
        KernelError: If the last dimension is odd or the rows are not contiguous.
    """
    if pairs.dim() != 2 or pairs.shape[1] % 2 or not pairs.is_contiguous():
        raise KernelError(f"pairs have shape {tuple(pairs.shape)}: must be [M, 2 F], contiguous")
    M, F = pairs.shape[0], pairs.shape[1] // 2
    out = torch.empty((M, F), dtype=pairs.dtype, device=pairs.device)
    if M * F:
        with on_device(pairs.device):
            _gated_silu_kernel[(-(-M * F // _GATED_BLOCK),)](pairs, out, M * F, BLOCK=_GATED_BLOCK, num_warps=4)
    return out


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, out: Tensor | None, centred: bool) -> Tensor:
    if x.dim() != 2 or not 1 <= x.shape[1] <= _MAX_HIDDEN or not x.is_contiguous():
        raise KernelError(f"x has shape {tuple(x.shape)}: must be [M, hidden], contiguous, hidden 1..{_MAX_HIDDEN}")
    M, hidden = x.shape
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and (tuple(vector.shape) != (hidden,) or vector.device != x.device):
            raise KernelError(
                f"{name} has shape {tuple(vector.shape)} on {vector.device}: must be [{hidden}] on {x.device}"
            )
    if out is None:
        out = torch.empty_like(x)
    elif out.shape != x.shape or out.dtype != x.dtype or not out.is_contiguous():
        raise KernelError(f"out {out.dtype} {tuple(out.shape)}: must be {x.dtype} {tuple(x.shape)}, contiguous")
    block = triton.next_power_of_2(hidden)
    if M:
        with on_device(x.device):
            _norm_kernel[(M,)](
                x,
                weight,
                weight if bias is None else bias,
                out,
                hidden,
                eps,
                BLOCK=block,
                CENTRED=centred,
                HAS_BIAS=bias is not None,
                # 16 values a thread: enough loads in flight, few enough warps to sum over.
                num_warps=min(16, max(1, block // 512)),
            )
    return out
