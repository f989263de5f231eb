"""Dequantise a packed weight on the GPU into a plain ``[N, K]`` matrix, for matrix products that cuBLAS does best.

A program decodes one block of some rows into its eight slabs, each a run of consecutive columns, so that every store
is coalesced. The sparse part is added by a second kernel, one program for some rows, in the order of the row.

Importing this module needs triton; :mod:`kernels.dispatch` does so lazily.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.errors import KernelError
from kernels.layout import PackedWeight

DTYPES = (torch.float16, torch.bfloat16)
_ROWS = 64


@triton.jit
def _dequantize_kernel(
    planes_ptr,
    lut_ptr,
    out_ptr,
    N,
    K,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """Decode one block of ``ROWS`` rows."""
    ENTRIES: tl.constexpr = 1 << BITS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    source_row = tl.minimum(row, N - 1).to(tl.int64)
    j = tl.arange(0, BLOCK_BYTES)
    row_ptr = planes_ptr + source_row[:, None] * row_bytes + block * BLOCK_BYTES
    for slab in range(8):
        byte = (j // 4) * 4 + 2 * (slab % 2) + (j % 4) // 2
        bit = 4 * (j % 2) + slab // 2
        index = tl.full([ROWS, BLOCK_BYTES], 0, tl.int32)
        for plane in tl.static_range(BITS):
            data = tl.load(row_ptr + plane * plane_bytes + byte[None, :]).to(tl.int32)
            index = (index << 1) | ((data >> bit[None, :]) & 1)
        column = (block * 8 + slab) * BLOCK_BYTES + j
        table = source_row[:, None] * groups
        if GROUPED:
            table = table + tl.minimum(column // group_size, groups - 1)[None, :]
        weight = tl.load(lut_ptr + table * ENTRIES + index)
        inside = (row < N)[:, None]
        if not EVEN_K:
            inside = inside & (column < K)[None, :]
        target = out_ptr + row.to(tl.int64)[:, None] * K + column[None, :]
        tl.store(target, weight.to(out_ptr.dtype.element_ty), mask=inside)


def dequantize(
    packed: PackedWeight, weight_bits: int, dtype: torch.dtype = torch.float16, *, out: Tensor | None = None
) -> Tensor:
    """Look every weight up in its row's (or group's) codebook.

    Args:
        packed: The weight; only its top ``weight_bits`` planes are read.
        weight_bits: The width, one with a stored codebook.
        dtype: torch.float16, bit-equal to :func:`kernels.naive.dequantize`, or torch.bfloat16, the same rounded.
        out: Where to write, ``[N, K]`` of ``dtype``, contiguous; allocated by default.

    Returns:
        ``[N, K]``.

    Raises:
        KernelError: If the width is not stored, or ``dtype`` or ``out`` does not fit.
    """
    N, K = packed.out_features, packed.in_features
    if weight_bits not in packed.luts:
        stored = ", ".join(str(width) for width in sorted(packed.luts))
        raise KernelError(f"weight_bits = {weight_bits}: not stored; stored widths: {stored}")
    if dtype not in DTYPES:
        raise KernelError(f"dtype = {dtype}: must be torch.float16 or torch.bfloat16")
    if out is None:
        out = torch.empty((N, K), dtype=dtype, device=packed.device)
    elif tuple(out.shape) != (N, K) or out.dtype != dtype or not out.is_contiguous() or out.device != packed.device:
        raise KernelError(
            f"out {out.dtype} {tuple(out.shape)} on {out.device}: "
            f"must be {dtype} {(N, K)} on {packed.device}, contiguous"
        )
    lut = packed.luts[weight_bits]
    row_bytes = packed.blocks * packed.block_bytes
    _dequantize_kernel[(-(-N // _ROWS), packed.blocks)](
        packed.planes.view(torch.int8),
        lut,
        out,
        N,
        K,
        lut.shape[1],
        packed.group_size or K,
        row_bytes,
        row_bytes * N,
        BITS=weight_bits,
        ROWS=_ROWS,
        BLOCK_BYTES=packed.block_bytes,
        GROUPED=lut.shape[1] > 1,
        EVEN_K=8 * row_bytes == K,
        num_warps=4,
    )
    return out
