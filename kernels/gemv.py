"""Any-precision GEMV in Triton: ``y[m] = W_b x[m] + bias`` for up to eight activation vectors at once.

A program takes ``ROWS`` output rows and a run of K blocks, decodes each block's eight slabs into fp16 and feeds
them to the tensor cores, accumulating in fp32. Where K is split over programs, each writes its partial sums, and a
second kernel adds them in a fixed order, so that equal inputs always give equal bits.

Widths 2..4 with one codebook per row decode by byte permutes (:mod:`kernels.ptx`); other widths, codebooks per
group and Triton's CPU interpreter, which knows no inline PTX, look entries up in memory. Importing this module
needs triton; :mod:`kernels.dispatch` does so lazily.
"""

# Triton functions are typed when they are compiled, not by annotations.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import GEMV_MAX_M
from kernels.errors import KernelError
from kernels.layout import PackedWeight
from kernels.ptx import half_decoder

# tl.dot wants at least 16 columns on every axis.
_BATCH = 16
_ROWS = 64
_REDUCE_BLOCK = 256
# Two programs for each of an H100's 132 multiprocessors.
_MIN_PROGRAMS = 264

_PTX2, _CONSTRAINTS2 = (tl.constexpr(text) for text in half_decoder(2))
_PTX3, _CONSTRAINTS3 = (tl.constexpr(text) for text in half_decoder(3))
_PTX4, _CONSTRAINTS4 = (tl.constexpr(text) for text in half_decoder(4))
_EIGHT_HALVES = tl.constexpr((tl.float16,) * 8)


@triton.jit
def _activations(x_ptr, column, m, M, K, EVEN_K: tl.constexpr):
    """Activations ``[columns, _BATCH]``, zero past K and past M."""
    inside = (m < M)[None, :]
    if not EVEN_K:
        inside = (column < K)[:, None] & inside
    return tl.load(x_ptr + m[None, :] * K + column[:, None], mask=inside, other=0.0)


@triton.jit
def _gemv_kernel(
    x_ptr,
    planes_ptr,
    lut_ptr,
    low_ptr,
    high_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    groups,
    group_size,
    row_bytes,
    plane_bytes,
    blocks,
    BLOCKS_PER_SPLIT: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    BATCH: tl.constexpr,
    PERMUTE: tl.constexpr,
    GROUPED: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Partial products of ``ROWS`` rows over one run of K blocks, into ``out[split, m, n]``."""
    ENTRIES: tl.constexpr = 1 << BITS
    WORDS: tl.constexpr = ENTRIES // 4
    split = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # Rows past the end read the last row again and are not stored.
    source_row = tl.minimum(row, N - 1)
    j = tl.arange(0, BLOCK_BYTES)
    m = tl.arange(0, BATCH)
    accumulator = tl.full([ROWS, BATCH], 0.0, tl.float32)
    if PERMUTE:
        low0 = tl.load(low_ptr + source_row * WORDS)[:, None]
        high0 = tl.load(high_ptr + source_row * WORDS)[:, None]
        if BITS >= 3:
            low1 = tl.load(low_ptr + source_row * WORDS + 1)[:, None]
            high1 = tl.load(high_ptr + source_row * WORDS + 1)[:, None]
        if BITS == 4:
            low2 = tl.load(low_ptr + source_row * WORDS + 2)[:, None]
            high2 = tl.load(high_ptr + source_row * WORDS + 2)[:, None]
            low3 = tl.load(low_ptr + source_row * WORDS + 3)[:, None]
            high3 = tl.load(high_ptr + source_row * WORDS + 3)[:, None]
    # A trip count known when compiling: the interpreter takes no other. The last split may run past the end of K,
    # where it reads the last block again and meets zero activations.
    for step in range(BLOCKS_PER_SPLIT):
        block = split * BLOCKS_PER_SPLIT + step
        row_ptr = planes_ptr + source_row[:, None] * row_bytes + tl.minimum(block, blocks - 1) * BLOCK_BYTES
        column = block * 8 * BLOCK_BYTES + j
        if PERMUTE:
            q0 = tl.load(row_ptr + j[None, :])
            q1 = tl.load(row_ptr + plane_bytes + j[None, :])
            if BITS == 2:
                slabs = tl.inline_asm_elementwise(
                    _PTX2, _CONSTRAINTS2, [q0, q1, low0, high0], dtype=_EIGHT_HALVES, is_pure=True, pack=4
                )
            elif BITS == 3:
                q2 = tl.load(row_ptr + 2 * plane_bytes + j[None, :])
                slabs = tl.inline_asm_elementwise(
                    _PTX3,
                    _CONSTRAINTS3,
                    [q0, q1, q2, low0, low1, high0, high1],
                    dtype=_EIGHT_HALVES,
                    is_pure=True,
                    pack=4,
                )
            else:
                q2 = tl.load(row_ptr + 2 * plane_bytes + j[None, :])
                q3 = tl.load(row_ptr + 3 * plane_bytes + j[None, :])
                slabs = tl.inline_asm_elementwise(
                    _PTX4,
                    _CONSTRAINTS4,
                    [q0, q1, q2, q3, low0, low1, low2, low3, high0, high1, high2, high3],
                    dtype=_EIGHT_HALVES,
                    is_pure=True,
                    pack=4,
                )
            for slab in tl.static_range(8):
                x = _activations(x_ptr, column + slab * BLOCK_BYTES, m, M, K, EVEN_K)
                accumulator = tl.dot(slabs[slab], x, acc=accumulator)
        else:
            # A loop, not unrolled: unrolled, the look-ups of all slabs are in flight at once and spill.
            for slab in range(8):
                # Bit 16h + 4i + p of word u, as a byte of the row and a bit of the byte (slab = 2p + h, j = 4u + i).
                byte = (j // 4) * 4 + 2 * (slab % 2) + (j % 4) // 2
                bit = 4 * (j % 2) + slab // 2
                index = tl.full([ROWS, BLOCK_BYTES], 0, tl.int32)
                for plane in tl.static_range(BITS):
                    data = tl.load(row_ptr + plane * plane_bytes + byte[None, :]).to(tl.int32)
                    index = (index << 1) | ((data >> bit[None, :]) & 1)
                slab_column = column + slab * BLOCK_BYTES
                table = source_row[:, None] * groups
                if GROUPED:
                    # Columns past K have no group of their own; they meet zero activations.
                    table = table + tl.minimum(slab_column // group_size, groups - 1)[None, :]
                weight = tl.load(lut_ptr + table * ENTRIES + index)
                accumulator = tl.dot(weight, _activations(x_ptr, slab_column, m, M, K, EVEN_K), acc=accumulator)
    if HAS_BIAS:
        accumulator += tl.load(bias_ptr + source_row).to(tl.float32)[:, None]
    target = out_ptr + (split * M + m[None, :]) * N + row[:, None]
    inside = (row < N)[:, None] & (m < M)[None, :]
    tl.store(target, accumulator.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _sum_kernel(
    partial_ptr, bias_ptr, out_ptr, total, N, SPLITS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """Add the partial sums ``[splits, M N]`` in rising order of the split."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    y = tl.full([BLOCK], 0.0, tl.float32)
    for split in range(SPLITS):
        y += tl.load(partial_ptr + split * total + at, mask=inside, other=0.0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + at % N, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=inside)


def gemv(
    x: Tensor,
    packed: PackedWeight,
    weight_bits: int,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    splits: int | None = None,
) -> Tensor:
    """Multiply activations by any-precision weights.

    Args:
        x: Activations ``[M, K]`` float16, contiguous, M <= 8.
        packed: The weight; only its top ``weight_bits`` planes are read.
        weight_bits: The width, one with a stored codebook.
        bias: ``[N]`` or None.
        out: Where to write, ``[M, N]`` float16 contiguous; allocated by default.
        splits: Parts of K that run side by side; enough to fill a GPU by default.

    Returns:
        ``[M, N]`` float16, accumulated in float32.

    Raises:
        KernelError: If the width is not stored, M is too large, or a dtype, shape, stride or device does not fit.
    """
    N, K = packed.out_features, packed.in_features
    _check(x, packed, weight_bits, bias)
    M = x.shape[0]
    if out is None:
        out = torch.empty((M, N), dtype=torch.float16, device=x.device)
    elif tuple(out.shape) != (M, N) or out.dtype != torch.float16 or not out.is_contiguous():
        raise KernelError(f"out {out.dtype} {tuple(out.shape)}: must be float16 {(M, N)}, contiguous")
    row_programs = -(-N // _ROWS)
    splits = splits or -(-_MIN_PROGRAMS // row_programs)
    blocks_per_split = -(-packed.blocks // min(splits, packed.blocks))
    splits = -(-packed.blocks // blocks_per_split)
    target = out if splits == 1 else torch.empty((splits, M, N), dtype=torch.float32, device=x.device)
    lut = packed.luts[weight_bits]
    permute = weight_bits in packed.byte_luts and not _interpreted()
    # The look-up path gets the codebook itself in place of byte tables it will not read.
    low, high = packed.byte_luts[weight_bits] if permute else (lut, lut)
    row_bytes = packed.blocks * packed.block_bytes
    _gemv_kernel[(row_programs, splits)](
        x,
        packed.planes.view(torch.int8),
        lut,
        low,
        high,
        lut if bias is None else bias,
        target,
        M,
        N,
        K,
        lut.shape[1],
        packed.group_size or K,
        row_bytes,
        row_bytes * N,
        packed.blocks,
        BLOCKS_PER_SPLIT=blocks_per_split,
        BITS=weight_bits,
        ROWS=_ROWS,
        BLOCK_BYTES=packed.block_bytes,
        BATCH=_BATCH,
        PERMUTE=permute,
        GROUPED=lut.shape[1] > 1,
        EVEN_K=splits * blocks_per_split * 8 * packed.block_bytes == K,
        HAS_BIAS=bias is not None and splits == 1,
        num_warps=4,
    )
    if splits > 1:
        _sum_kernel[(-(-M * N // _REDUCE_BLOCK),)](
            target,
            lut if bias is None else bias,
            out,
            M * N,
            N,
            SPLITS=splits,
            BLOCK=_REDUCE_BLOCK,
            HAS_BIAS=bias is not None,
        )
    return out


def _interpreted() -> bool:
    """Whether the kernels were defined for Triton's CPU interpreter (TRITON_INTERPRET=1)."""
    kernel: Any = _gemv_kernel
    return not isinstance(kernel, triton.runtime.JITFunction)


def _check(x: Tensor, packed: PackedWeight, weight_bits: int, bias: Tensor | None) -> None:
    if weight_bits not in packed.luts:
        stored = ", ".join(str(width) for width in sorted(packed.luts))
        raise KernelError(f"weight_bits = {weight_bits}: not stored; stored widths: {stored}")
    if x.dim() != 2 or x.shape[1] != packed.in_features:
        raise KernelError(f"x has shape {tuple(x.shape)}: must be [M, {packed.in_features}]")
    if not 1 <= x.shape[0] <= GEMV_MAX_M:
        raise KernelError(f"M = {x.shape[0]}: must be 1..{GEMV_MAX_M}; use dequantised weights for more")
    if x.dtype != torch.float16:
        raise KernelError(f"x is {x.dtype}: must be torch.float16")
    if not x.is_contiguous():
        raise KernelError(f"x has strides {x.stride()}: must be contiguous")
    if x.device != packed.device:
        raise KernelError(f"x is on {x.device}, the weight on {packed.device}: must be the same device")
    if bias is not None and (tuple(bias.shape) != (packed.out_features,) or bias.device != x.device):
        raise KernelError(
            f"bias has shape {tuple(bias.shape)} on {bias.device}: must be [{packed.out_features}] on {x.device}"
        )
